"""Which cells lack output, and which sessions a notebook gets back."""

from types import SimpleNamespace

import pytest

from nbgpu.notebook_key import notebook_key
from nbgpu.server.problems import RefusedError
from nbgpu.server.recovery import find_unsaved, give_back, note_saved
from nbgpu.server.replay_handlers import MAX_CELLS, read_cells
from nbgpu.server.unsaved import Cell, CellExecution, unsaved


def execution(id="e1", cell_id="c1", digest="d1", started=1.0, **fields):
    session_id = fields.pop("session_id", "s1")
    more = {"is_waiting": False, "is_saved": False, **fields}
    return CellExecution(session_id, id, f"m-{id}", cell_id, digest, 2, started, **more)


def ids(cells, *executions):
    return [each.id for each in unsaved(cells, executions)]


def test_a_cell_gets_its_last_execution():
    assert ids([Cell("c1", "d1")], execution(), execution("e2", started=9.0), execution("e3", started=5.0)) == ["e2"]
    waiting = execution("e2", started=0.0, is_waiting=True)
    assert ids([Cell("c1", "d1")], waiting, execution()) == ["e2"]
    assert ids([Cell("c2", "d1"), Cell("c1", "d1")], execution(), execution("e2", "c2")) == ["e2", "e1"]


@pytest.mark.parametrize(
    ("cells", "executions"),
    [
        ([Cell("c1", "other")], [execution()]),
        ([Cell("c1", "d1"), Cell("c1", "d1")], [execution()]),
        ([Cell("c1", "d1")], [execution(is_saved=True)]),
        ([Cell("c1", "d1")], [execution(), execution("e2", digest="other", started=9.0)]),
        ([Cell("c1", "d1")], [execution(), execution("e2", digest="", started=9.0)]),
        ([Cell("c1", "d1")], [execution(), execution("e2", started=9.0, is_saved=True)]),
        ([Cell("", "")], [execution(cell_id="", digest="")]),
    ],
    ids=["edited", "twice", "saved", "ran with another text", "ran in parts", "ran again", "without an id"],
)
def test_others_are_left_alone(cells, executions):
    assert ids(cells, *executions) == []


def test_cells_are_read_as_a_page_tells_them_and_nothing_else_is():
    (cell,) = read_cells('{"kind": "cells", "cells": [{"id": "a", "source": "%%gpu"}, {"id": 1, "source": "x"}]}')
    assert cell.id == "a"
    assert cell.source_digest.startswith("sha256:")
    many = f'{{"kind": "cells", "cells": [{",".join(["{}"] * (MAX_CELLS + 1))}]}}'
    for text in ("", "[]", '{"kind": "cells"}', '{"kind": "cells", "cells": [1]}', many, "[" * 100_000):
        assert read_cells(text) is None


class FakeLink:
    """A pool that is connected, whose sessions are as told until it is asked to attach them."""

    def __init__(self, *sessions):
        self.state = {"sessions": list(sessions)}
        self.calls = self
        self.attached = []
        self.saved = []

    async def attach(self, session_id, notebook_id, notebook_name, notebook_key):
        self.attached.append((session_id, notebook_name, notebook_key))
        for each in self.state["sessions"]:
            if each["id"] == session_id:
                if each.get("is_closed"):
                    raise RefusedError("it is closed")
                each["notebook_id"] = notebook_id

    async def settle_until(self, condition, deadline_s):
        assert condition(self.state)

    async def cell_executions(self, session_id):
        if session_id == "refused":
            raise RefusedError("it is another user's")
        return [execution(session_id, session_id=session_id)]

    async def note_saved(self, session_id, cell_ids):
        self.saved.append((session_id, cell_ids))


def session(id, notebook_id="old", key="key", **fields):
    shown = {"id": id, "phase": "ready", "notebook_id": notebook_id, "notebook_key": key, "notebook_connected": False}
    return {**shown, "attached_unix_s": 1.0, **fields}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Settings of a server that runs the kernel "new" of one notebook, and "alive" of another; and the first's key."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "config"))
    sessions = [{"kernel": {"id": "new"}, "path": "digits.ipynb"}, {"kernel": {"id": "alive"}, "path": "digits.ipynb"}]

    async def list_sessions():
        return sessions

    settings = {
        "server_root_dir": str(tmp_path),
        "kernel_manager": {"new", "alive"},
        "session_manager": SimpleNamespace(list_sessions=list_sessions),
    }
    return settings, notebook_key(tmp_path / "digits.ipynb")


@pytest.mark.asyncio
async def test_a_notebook_gets_its_sessions_back_the_one_that_it_used_last(server):
    settings, key = server
    link = FakeLink(
        session("used", key=key, attached_unix_s=9.0),
        session("first", key=key),
        session("closed", key=key, attached_unix_s=5.0, is_closed=True),
        session("of another notebook", key="other"),
        session("without a key", key=None),
        session("detached", notebook_id=None, key=key),
        session("in use elsewhere", key=key, notebook_connected=True),
        session("of a kernel that lives", notebook_id="alive", key=key),
        session("opening", key=key, phase="queued"),
    )
    await give_back(SimpleNamespace(links=lambda: [link]), settings, "new")
    assert link.attached == [(each, "digits.ipynb", key) for each in ("first", "closed", "used")]


@pytest.mark.asyncio
async def test_a_notebook_that_has_a_session_gets_none_and_neither_does_a_kernel_without_a_file(server):
    settings, key = server
    link = FakeLink(session("own", notebook_id="new"), session("lost", key=key))
    hub = SimpleNamespace(links=lambda: [link])
    await give_back(hub, settings, "new")
    link.state["sessions"] = [session("lost", key=key), session("keyless", key="")]
    await give_back(hub, settings, "a console's")
    assert link.attached == []


@pytest.mark.asyncio
async def test_only_what_the_notebooks_own_sessions_say_is_shown_or_noted_as_saved():
    link = FakeLink(
        session("own", "new"), session("refused", "new"), session("other"), session("late", "new", phase=None)
    )
    hub = SimpleNamespace(links=lambda: [link, SimpleNamespace(calls=None, state={"sessions": [session("x", "new")]})])
    found = await find_unsaved(hub, "new", [Cell("c1", "d1")])
    assert [(calls, each.session_id) for calls, each in found] == [(link, "own")]
    await note_saved(hub, "new", ["c1"])
    assert [each for each, _ in link.saved] == ["own", "refused"]
