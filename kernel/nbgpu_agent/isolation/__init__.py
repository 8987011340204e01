"""Which operating system's user a session's processes are, and how the agent handles files of that user's."""
