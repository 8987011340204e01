"""Runs the agent: `python -m nbgpu_agent`."""

import os
import signal

# An interrupt while the imports below are made ends the process without a traceback: nothing has been begun yet.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

# Before grpc is imported: its fork handlers would print a warning at every kernel that is started.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from nbgpu_agent.app import main

if __name__ == "__main__":
    main()
