"""The notebook's environment, captured: what is installed, which local files it imports, which variables it names."""
