"""What bounds sessions: time without work, a longest life, shares of a user, memory and disk of the node."""
