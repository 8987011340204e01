"""The journal: numbers, limits, gaps, and who waits for what."""

import asyncio

import pytest

from nbgpu_agent.journal import Journal, Message, SessionClosed

pytestmark = pytest.mark.asyncio


def message(content: bytes = b"") -> Message:
    return Message(4, [b"{}", b"{}", b"{}", content])


async def test_entries_are_numbered_from_one_and_read_in_order() -> None:
    journal = Journal()
    reader = journal.reader(0)
    for number in range(1, 6):
        assert journal.append(message(b"%d" % number)) == number
    batch = await reader.read()
    assert batch is not None
    assert [entry.number for entry in batch.entries] == [1, 2, 3, 4, 5]
    assert batch.gap_until == 0
    later = journal.reader(3)
    batch = await later.read()
    assert batch is not None
    assert [entry.number for entry in batch.entries] == [4, 5]


async def test_a_batch_is_bounded_and_takes_an_entry_that_is_larger_than_a_batch() -> None:
    journal = Journal()
    reader = journal.reader(0)
    for size in (10, 5000, 10, 10):
        journal.append(message(b"x" * size))
    sizes = []
    for _ in range(3):
        batch = await reader.read(max_bytes=1000)
        assert batch is not None
        sizes.append([len(entry.body.parts[3]) for entry in batch.entries])
    assert sizes == [[10], [5000], [10, 10]]


async def test_what_is_not_urgent_waits_for_what_is() -> None:
    journal = Journal()
    reader = journal.reader(0)
    read = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    journal.append(message(), urgent=False)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not read.done()
    journal.append(message())
    batch = await read
    assert batch is not None
    assert len(batch.entries) == 2
    journal.append(message(), urgent=False)
    batch = await asyncio.wait_for(reader.read(), 10)  # and not for ever
    assert batch is not None
    assert [entry.number for entry in batch.entries] == [3]


async def test_the_oldest_are_dropped_and_that_is_told() -> None:
    journal = Journal(limit_bytes=10_000)
    for _ in range(20):
        journal.append(message(b"x" * 1000))
    assert journal.size_bytes <= 10_000
    batch = await journal.reader(0).read(max_bytes=1 << 20)
    assert batch is not None
    assert batch.gap_until == journal.dropped_until
    assert batch.entries[0].number == journal.dropped_until + 1
    assert batch.entries[-1].number == 20


async def test_a_connected_reader_that_is_slow_loses_nothing_below_the_hard_limit() -> None:
    journal = Journal(limit_bytes=10_000, hard_limit_bytes=100_000)
    slow, fast = journal.reader(0), journal.reader(0)
    seen: list[int] = []
    for _ in range(50):
        journal.append(message(b"x" * 1000))
        batch = await fast.read()
        assert batch is not None
        seen += [entry.number for entry in batch.entries]
    assert seen == list(range(1, 51))
    assert journal.dropped_until == 0
    batch = await slow.read(max_bytes=1 << 20)
    assert batch is not None
    assert [entry.number for entry in batch.entries] == list(range(1, 51))
    journal.append(message())
    assert journal.size_bytes <= 10_000


async def test_beyond_the_hard_limit_only_the_slow_reader_finds_a_gap() -> None:
    journal = Journal(limit_bytes=10_000, hard_limit_bytes=20_000)
    slow, fast = journal.reader(0), journal.reader(0)
    for _ in range(50):
        journal.append(message(b"x" * 1000))
        batch = await fast.read()
        assert batch is not None
        assert batch.gap_until == 0
    assert journal.size_bytes <= 20_000
    batch = await slow.read(max_bytes=1 << 20)
    assert batch is not None
    assert batch.gap_until == journal.dropped_until > 0


async def test_a_reader_that_left_holds_nothing_back() -> None:
    journal = Journal(limit_bytes=10_000, hard_limit_bytes=1 << 20)
    reader = journal.reader(0)
    for _ in range(50):
        journal.append(message(b"x" * 1000))
    assert journal.dropped_until == 0
    reader.close()
    journal.append(message())
    assert journal.size_bytes <= 10_000


async def test_readers_end_once_all_is_read() -> None:
    journal = Journal()
    reader = journal.reader(0)
    read = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    journal.append(SessionClosed("done"), urgent=False)
    journal.close()
    batch = await read
    assert batch is not None
    assert [entry.body for entry in batch.entries] == [SessionClosed("done")]
    assert await reader.read() is None
    assert await journal.reader(99).read() is None


async def test_a_stopped_reader_returns() -> None:
    reader = Journal().reader(0)
    read = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    reader.stop()
    assert await read is None
