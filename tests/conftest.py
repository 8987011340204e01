"""What all tests share: signals, and the event loop that jupyter_core keeps for synchronous callers, until the end."""

from __future__ import annotations

import signal

import pytest
from jupyter_core.utils import ensure_event_loop

# Made here, in the context from which all others are copied. Made later, in a test's own context, it would be made anew
# for each, and whichever test runs when one of them is collected would fail.
_LOOP = ensure_event_loop()

# A shell has what it runs in the background ignore interrupts, and so would all that the tests start.
for _number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)


def pytest_sessionfinish(session: pytest.Session) -> None:
    _LOOP.close()
