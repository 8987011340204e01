"""Folders of a test's own, in which this machine's agent is found and started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent_processes import Workplace, workplace


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workplace]:
    """This process has the place's folders, and so has the agent that it starts; nothing of that may be left."""
    with workplace() as place:
        (place.root / "tmp").mkdir()
        environ = place.environ(NBGPU_AGENT_DIR=str(place.folder))
        for name in ("NBGPU_AGENT_ADDRESS", "NBGPU_AGENT_TOKEN", "PYTHONDONTWRITEBYTECODE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        yield place
        assert place.end_agents() <= {0}
        place.assert_nothing_left()
