"""Talks to agents: finds or starts this machine's, calls it, keeps a session's message stream alive."""
