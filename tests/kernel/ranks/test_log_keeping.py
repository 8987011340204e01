"""What ranks write is kept: whole, in order, and no more than there is room for."""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbgpu_kernel.ranks import log_keeping
from nbgpu_kernel.ranks.call_folder import CallFolder, parse_feed_line
from nbgpu_kernel.ranks.log_keeping import LogKeeper


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as selector:
        yield selector
        for key in list(selector.get_map().values()):
            os.close(key.fd)


@pytest.fixture
def keeper(tmp_path: Path, selector: selectors.BaseSelector) -> Iterator[LogKeeper]:
    keeper = LogKeeper(CallFolder(tmp_path), selector)
    yield keeper
    for file in (keeper._feed, *keeper._logs.values()):
        file.close()


def pump(keeper: LogKeeper, selector: selectors.BaseSelector) -> None:
    while ready := selector.select(0):
        for key, _ in ready:
            keeper.keep(key.fd, key.data)


def test_both_streams_are_in_one_log_and_in_order(
    tmp_path: Path, keeper: LogKeeper, selector: selectors.BaseSelector
) -> None:
    out, err = keeper.open_pipe(1, is_stderr=False), keeper.open_pipe(1, is_stderr=True)
    for descriptor, data in ((out, b"a\n"), (err, b"\xff\n"), (out, b"c")):
        os.write(descriptor, data)
        pump(keeper, selector)
    os.close(out)
    os.close(err)
    pump(keeper, selector)
    folder = CallFolder(tmp_path)
    assert folder.log(1).read_bytes() == b"a\n\xff\nc"
    lines = folder.feed.read_bytes().splitlines()
    assert [parse_feed_line(line) for line in lines] == [(1, False, 2), (1, True, 2), (1, False, 1)]
    assert not selector.get_map()


def test_a_flood_is_cut_and_said_to_be(
    tmp_path: Path, keeper: LogKeeper, selector: selectors.BaseSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_keeping, "MAX_LOG_BYTES", 1 << 20)
    flood, calm = keeper.open_pipe(0, is_stderr=False), keeper.open_pipe(1, is_stderr=False)
    for _ in range(40):
        os.write(flood, b"x" * 60_000)
        pump(keeper, selector)
    os.write(calm, b"still here\n")
    pump(keeper, selector)
    os.close(flood)
    os.close(calm)
    folder = CallFolder(tmp_path)
    log = folder.log(0).read_bytes()
    assert len(log) < (1 << 20) + log_keeping.CHUNK_BYTES + 200
    assert log.endswith(b"\n[nbgpu: rank 0 wrote more than 1 MiB; the rest is not kept]\n")
    assert folder.log(1).read_bytes() == b"still here\n"
    assert sum(parse_feed_line(line)[2] for line in folder.feed.read_bytes().splitlines()) == len(log) + 11
