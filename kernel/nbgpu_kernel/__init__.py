"""What is loaded inside a session's kernel: an ordinary ipykernel with what a remote notebook needs of it.

Needs the standard library and ipykernel; uses cloudpickle where the environment has it. Imports nothing else of
nbgpu: the environment it runs in is the user's. The agent starts this folder as a script, see `__main__`.
"""
