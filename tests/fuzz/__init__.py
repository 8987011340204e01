"""Hostile requests to a real agent: `python -m fuzz [COUNT] [SEED]`, with tests on the path, sends 10,000 of them."""
