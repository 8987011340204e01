"""Functions that run on every rank of a session: `distributed`, the calls that it makes, how their failures read."""
