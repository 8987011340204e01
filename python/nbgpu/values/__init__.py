"""What a cell reads travels to its session, what it binds comes back: the notebook's end of it."""
