"""What all tests share: the event loop that jupyter_core keeps for synchronous callers, closed at the end."""

from __future__ import annotations

import pytest
from jupyter_core.utils import ensure_event_loop

# Made here, in the context from which all others are copied. Made later, in a test's own context, it would be made anew
# for each, and whichever test runs when one of them is collected would fail.
_LOOP = ensure_event_loop()


def pytest_sessionfinish(session: pytest.Session) -> None:
    _LOOP.close()
