"""Calls of a function on every rank: fresh processes on the session's accelerators, their output, their fate.

The session's kernel starts a launcher for each call, see `calls`. The launcher imports torch once, forks the ranks,
keeps what they write, notices how each ends, and ends the others. It leaves an outcome in the call's folder.
"""
