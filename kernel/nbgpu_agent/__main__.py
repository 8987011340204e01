"""Runs the agent: `python -m nbgpu_agent`."""

import os

# Before grpc is imported: its fork handlers would print a warning at every kernel that is started.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from nbgpu_agent.app import main

if __name__ == "__main__":
    main()
