"""The journal on disk, and its keeping: what is written, when the disk is full or a file damaged, and what is shown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nbgpu_agent import journal_keeping
from nbgpu_agent.errors import KernelDiedError
from nbgpu_agent.journal import (
    CellTimedOut,
    Choice,
    Entry,
    Journal,
    KernelEnded,
    KernelStarted,
    Message,
    Notice,
    RequestRefused,
)
from nbgpu_agent.journal_keeping import JournalKeeper
from nbgpu_agent.journal_store import FILE_BYTES, Batch, JournalStore, StoreError
from nbgpu_agent.model import KernelExit
from nbgpu_agent.stacks import ProcessStacks, Stacks

DEADLINE_S = 60


def entries_of(*contents: bytes, first: int = 1) -> list[Entry]:
    bodies = [Message(4, [b"{}", b'{"a": 1}', b"{}", content, b"", b"buffer"]) for content in contents]
    return [Entry(first + at, body, 400 + sum(map(len, body.parts))) for at, body in enumerate(bodies)]


def texts(entries: list[Entry]) -> list[bytes]:
    return [bytes(each.body.parts[3]) for each in entries if isinstance(each.body, Message)]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "sessions" / "s")
    large = b"x" * FILE_BYTES
    events = [
        KernelStarted(1),
        KernelEnded(1, KernelExit(None, 9, "tail", asked_for=False)),
        RequestRefused("r", KernelDiedError("it ended")),
        Choice("notebook", ""),
        Notice("what is said"),
        CellTimedOut("r", 1.5, Stacks((ProcessStacks(1, "dump", rank=0),), {"file": 3})),
    ]
    store.write(Batch(entries_of(b"one", b"two"), b"first state", [(0, b"a")], [(0, "id-0")]))
    store.write(Batch(entries_of(large, b"four", first=3), b"second state", [(0, b"b"), (1, b"c")], [(1, "id-1")]))
    store.write(Batch([Entry(5 + at, event, 400) for at, event in enumerate(events)], None))
    store.close()
    stored = JournalStore(store.folder).load()
    assert [each.number for each in stored.entries] == list(range(1, 11))
    assert texts(stored.entries) == [b"one", b"two", large, b"four"]
    assert stored.entries[:4] == [*entries_of(b"one", b"two"), *entries_of(large, b"four", first=3)]
    assert [each.body for each in stored.entries[4:6]] == events[:2]
    refused = stored.entries[6].body
    assert isinstance(refused, RequestRefused)
    assert (refused.request_id, refused.error.message) == ("r", "it ended")
    assert [each.body for each in stored.entries[7:]] == events[3:]
    assert (stored.state, stored.executions, stored.last_number) == (b"second state", [(0, b"b"), (1, b"c")], 10)
    assert stored.requests == [(0, "id-0"), (1, "id-1")]
    assert [path.name for path in (store.folder / "payloads").iterdir()] == ["3"]
    store.remove()
    assert not store.folder.exists()


def test_what_is_dropped_is_gone_from_the_disk(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "s")
    for first in range(1, 6):
        store.write(Batch(entries_of(b"y" * FILE_BYTES, first=first), None, dropped_until=first - 2))
    store.write(Batch([], None, [(5, b"e")], [(7, "id")], dropped_until=4, executions_from=5, requests_from=7))
    assert [path.name for path in (store.folder / "payloads").iterdir()] == ["5"]
    stored = store.load()
    assert [each.number for each in stored.entries] == [5]
    assert (stored.executions, stored.requests) == ([(5, b"e")], [(7, "id")])


def test_a_full_disk_changes_nothing_and_is_told(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "s", max_pages=10)
    store.write(Batch(entries_of(b"fits"), b"state"))
    with pytest.raises(StoreError) as raised:
        store.write(Batch(entries_of(b"z" * (FILE_BYTES - 1000), first=2), b"other state"))
    assert raised.value.no_space
    assert not raised.value.damaged
    stored = store.load()
    assert (texts(stored.entries), stored.state) == ([b"fits"], b"state")
    store.write(Batch(entries_of(b"small", first=2), None))
    assert texts(store.load().entries) == [b"fits", b"small"]


def test_a_damaged_file_is_moved_aside_and_what_follows_is_read(tmp_path: Path) -> None:
    store = JournalStore(tmp_path / "s")
    for first, content in ((1, b"a" * FILE_BYTES), (2, b"b" * FILE_BYTES), (3, b"c")):
        store.write(Batch(entries_of(content, first=first), b"state"))
    path = store.folder / "payloads" / "2"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (store.folder / "payloads" / "9").write_bytes(b"of a write that was cut off")
    stored = store.load()
    assert "entries 2 to 2 cannot be read" in stored.problem
    assert texts(stored.entries) == [b"c"]
    assert (store.folder / "2.damaged").exists()
    assert [each.name for each in (store.folder / "payloads").iterdir()] == ["1"]


@pytest.mark.parametrize("content", [b"no database at all" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_database_is_moved_aside_and_a_new_one_begun(tmp_path: Path, content: bytes) -> None:
    store = JournalStore(tmp_path / "s")
    store.write(Batch(entries_of(b"lost"), b"state"))
    store.close()
    for path in store.folder.glob("journal.db*"):
        path.unlink()
    (store.folder / "journal.db").write_bytes(content)
    stored = store.load()
    assert stored.problem
    assert (stored.entries, stored.state) == ([], None)
    assert store.read_spare_state() == b"state"
    assert (store.folder / "journal.db.damaged").read_bytes() == content
    store.write(Batch(entries_of(b"new"), b"state"))
    assert texts(store.load().entries) == [b"new"]


class Session:
    """Stands in for a session."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.acknowledged = 0

    def state_record(self) -> bytes:
        return b"%d" % self.journal.last_number

    def new_executions(self) -> tuple[list[tuple[int, bytes]], int]:
        return [], 0

    def new_requests(self) -> tuple[list[tuple[int, str]], int]:
        return [], 0

    def acknowledgement(self) -> Callable[[], None]:
        number = self.journal.last_number

        def acknowledge() -> None:
            self.acknowledged = number

        return acknowledge


async def until(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), DEADLINE_S)


def say(journal: Journal, content: bytes, *, own: bool = False) -> None:
    journal.append(Message(4, [b"{}", b"{}", b"{}", content]), own=own)


@pytest.mark.asyncio
async def test_what_is_said_is_on_disk_soon_with_the_state_that_it_leads_to(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        journal = Journal()
        session = Session(journal)
        keeper = JournalKeeper(session, journal, JournalStore(tmp_path / "s"), executor)
        for number in range(1000):
            say(journal, b"%d" % number)
        await until(lambda: session.acknowledged == 1000)
        stored = await asyncio.to_thread(JournalStore(tmp_path / "s").load)
        assert texts(stored.entries) == [b"%d" % number for number in range(1000)]
        assert stored.state == b"1000"
        journal.skip(50)
        say(journal, b"after the skip")
        await keeper.close(remove=False)
        stored = await asyncio.to_thread(JournalStore(tmp_path / "s").load)
        assert stored.entries[-1].number == stored.last_number == 1051
        assert stored.state == b"1051"


@pytest.mark.asyncio
async def test_what_the_agent_adds_is_shown_once_it_is_on_disk_and_so_is_what_follows(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        journal = Journal()
        keeper = JournalKeeper(Session(journal), journal, JournalStore(tmp_path / "s"), executor)
        reader = journal.reader(0)
        say(journal, b"the kernel's")
        say(journal, b"the agent's", own=True)
        say(journal, b"the kernel's again")
        batch = await reader.read()
        assert batch is not None
        assert texts(list(batch.entries)) == [b"the kernel's"]
        batch = await asyncio.wait_for(reader.read(), DEADLINE_S)
        assert batch is not None
        assert texts(list(batch.entries)) == [b"the agent's", b"the kernel's again"]
        stored = await asyncio.to_thread(JournalStore(tmp_path / "s").load)
        assert len(stored.entries) == 3
        await keeper.close(remove=True)
        assert not (tmp_path / "s").exists()


@pytest.mark.asyncio
async def test_while_the_disk_is_full_all_goes_on_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_keeping, "RETRY_S", 0.01)
    problems: list[str] = []
    with ThreadPoolExecutor(1) as executor:
        journal = Journal()
        session = Session(journal)
        store = JournalStore(tmp_path / "s", max_pages=8)
        keeper = JournalKeeper(session, journal, store, executor, problems.append)
        say(journal, b"fits")
        await until(lambda: session.acknowledged == 1)
        reader = journal.reader(1)
        for _ in range(3):
            say(journal, b"z" * 21_000, own=True)
            batch = await asyncio.wait_for(reader.read(), DEADLINE_S)
            assert batch is not None, "output goes on"
            number = journal.last_number
            await until(lambda number=number: session.acknowledged == number)  # type: ignore[misc]
        assert len(problems) == 1
        assert "No space left on device" in problems[0]
        store._max_pages = 1 << 20  # there is room again
        await asyncio.to_thread(store.close)
        say(journal, b"the last")
        await until(lambda: problems[-1] == "")
        await keeper.close(remove=False)
        assert len(problems) == 2
        stored = await asyncio.to_thread(JournalStore(tmp_path / "s").load)
        assert [each.number for each in stored.entries] == [1, 2, 3, 4, 5]
