"""Ends the kernels of an agent that was killed and that none came after: a small process beside the agent.

It waits for the end of a pipe whose other end the agent alone has, so that it learns of any end of the agent, and of no
kernel's doings. Until then it has nothing loaded but this file.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

TOKEN_FILE = "guardian"
"""Names the agent that came last: whoever finds another name there than its own agent's has nothing to do."""
_DISMISSED = b"."
_POLL_S = 0.2


class Guardian:
    """The agent's side.

    Args:
        root: The agent's folder.
        grace_s: How long kernels wait for the next agent.
    """

    def __init__(self, root: str, grace_s: float) -> None:
        token = os.urandom(16).hex()
        path = os.path.join(root, TOKEN_FILE)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(token)
        reading, self._writing = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, root, token, str(grace_s)],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=root,
                start_new_session=True,
            )
        finally:
            os.close(reading)

    def dismiss(self, *, timeout_s: float) -> None:
        """Ends it: there are no kernels. Blocks."""
        try:
            os.write(self._writing, _DISMISSED)
            os.close(self._writing)
            self._process.wait(timeout_s)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()


def guard(root: str, token: str, grace_s: float) -> None:
    """Waits for the agent's end, and that long for the next one; then has what is left ended."""
    if os.read(0, 1) == _DISMISSED:
        return
    deadline = time.monotonic() + grace_s
    while _is_last(root, token):
        left = deadline - time.monotonic()
        if left <= 0:
            os.execv(sys.executable, [sys.executable, "-m", "nbgpu_agent.reaping", root, token])
        time.sleep(min(left, _POLL_S))


def _is_last(root: str, token: str) -> bool:
    try:
        with open(os.path.join(root, TOKEN_FILE)) as file:
            return file.read() == token
    except OSError:
        return False


if __name__ == "__main__":
    guard(sys.argv[1], sys.argv[2], float(sys.argv[3]))
