"""Faults at random moments of a running cell, and whether anything of its output was lost."""
