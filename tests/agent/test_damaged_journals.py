"""Journals of which a part is gone or changed: the next agent goes on where the last one was, not before."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from nbgpu_agent.adoption import LeftSession, clock_left, find_sessions
from nbgpu_agent.journal import Entry, Message
from nbgpu_agent.journal_store import Batch, JournalStore
from nbgpu_agent.model import Execution, KernelSetting, SessionRequest
from nbgpu_agent.session_state import (
    SessionState,
    execution_to_json,
    executions_from_records,
    state_from_json,
    state_to_json,
)

CLOCK = {"boot_id": "of this boot", "offset_s": 1.5}
STATE = SessionState(
    id="s",
    request=SessionRequest(None, notebook_id="n"),
    lease=None,
    kernel_id="",
    kernel_exit=None,
    generation=1,
    kernel_number=10,
    journal_number=1,
    created_unix_s=1.0,
    last_active_unix_s=1.0,
    attached_unix_s=1.0,
    settled=True,
    executions=0,
    python_version="3.12",
    working_folder="",
    setting=KernelSetting(python=""),
    clock=CLOCK,
)
LATER = replace(STATE, kernel_number=20, journal_number=2)


def entry(number: int) -> Entry:
    return Entry(number, Message(4, [b"{}", b"{}", b"{}", b"%d" % number]), 400)


@pytest.fixture
def sessions(tmp_path: Path) -> Path:
    """A folder with a session that was written twice; beside it, what its journal was after the first time."""
    store = JournalStore(tmp_path / "sessions" / "s")
    store.write(Batch([entry(1)], state_to_json(STATE)))
    store.close()
    shutil.copy(store.folder / "journal.db", tmp_path / "earlier")
    store.write(Batch([entry(2)], state_to_json(LATER)))
    store.close()
    return store.folder.parent


def found_in(sessions: Path) -> LeftSession:
    leftovers = find_sessions(sessions, sessions.parent / "kernels")
    assert not leftovers.lost
    assert clock_left(leftovers) == CLOCK
    (found,) = leftovers.sessions
    return found


def numbers(found: LeftSession) -> list[int]:
    return [each.number for each in found.stored.entries]


def test_what_is_whole_is_read_whole(sessions: Path) -> None:
    found = found_in(sessions)
    assert (found.state, numbers(found)) == (LATER, [1, 2])


def test_a_journal_whose_end_is_gone_does_not_take_the_session_back(sessions: Path) -> None:
    for path in (sessions / "s").glob("journal.db*"):
        path.unlink()
    shutil.copy(sessions.parent / "earlier", sessions / "s" / "journal.db")
    found = found_in(sessions)
    assert found.state == LATER
    assert numbers(found) == [], "numbers between them would not be missed by who reads on"


@pytest.mark.parametrize(("before", "after"), [('"kernel_number": 20', '"kernel_number": 90'), ("{", "?")])
def test_a_state_that_was_changed_is_not_believed(sessions: Path, before: str, after: str) -> None:
    with sqlite3.connect(sessions / "s" / "journal.db") as database:
        (record,) = database.execute("SELECT record FROM state").fetchone()
        changed = record.decode().replace(before, after, 1).encode()
        assert changed != record
        database.execute("UPDATE state SET record = ?", (changed,))
    database.close()
    found = found_in(sessions)
    assert (found.state, numbers(found)) == (LATER, [1, 2])


def test_a_spare_state_that_was_changed_is_not_missed(sessions: Path) -> None:
    spare = sessions / "s" / "state.json"
    spare.write_bytes(spare.read_bytes().replace(b'"journal_number": 2', b'"journal_number": 9'))
    found = found_in(sessions)
    assert (found.state, numbers(found)) == (LATER, [1, 2])


def test_a_state_of_a_neighbouring_version_is_read() -> None:
    content = state_to_json(STATE)
    assert state_from_json(content) == STATE
    older = content.replace(b', "checksum"', b', "of a newer agent"').replace(b', "clock": ', b', "not known": ')
    assert state_from_json(older) == replace(STATE, clock=None)


def test_cells_that_cannot_be_read_are_forgotten_and_the_others_are_not() -> None:
    cells = [Execution(f"r{at}", at, 1.0) for at in range(3)]
    records = [(at, execution_to_json(each)) for at, each in enumerate(cells)]
    assert [each.request_id for _, each in executions_from_records(records)] == ["r0", "r1", "r2"]
    records[1] = (1, records[1][1][:-1] + b"?")
    assert executions_from_records(records) == [(2, cells[2])]
