"""The environments of the node: planned from a snapshot, built with uv, shared by sessions, and removed when unused."""
