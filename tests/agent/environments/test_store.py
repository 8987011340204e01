"""The folder of environments: one build a digest, nothing half built, nothing removed in use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nbgpu_agent.environments.store import EnvironmentStore

A, B, C = ("a" * 32, "b" * 32, "c" * 32)


def building(log: list[str], size_bytes: int = 100) -> Callable[[Path], Awaitable[None]]:
    async def build(folder: Path) -> None:
        log.append(folder.name)
        await asyncio.to_thread(folder.mkdir)
        await asyncio.to_thread((folder / "content").write_bytes, bytes(size_bytes))

    return build


@pytest.mark.asyncio
async def test_many_who_ask_at_once_build_it_once(tmp_path: Path) -> None:
    store, log = EnvironmentStore(tmp_path / "e"), list[str]()
    found = await asyncio.gather(*(store.add(A, building(log)) for _ in range(8)))
    assert len(log) == 1
    assert {each.folder for each in found} == {tmp_path / "e" / A}
    assert (found[0].folder / "content").is_file()


@pytest.mark.asyncio
async def test_a_failed_and_a_cancelled_build_leave_nothing(tmp_path: Path) -> None:
    store, began = EnvironmentStore(tmp_path / "e"), asyncio.Event()

    async def fail(folder: Path) -> None:
        await asyncio.to_thread(folder.mkdir)
        raise RuntimeError("broken")

    async def hang(folder: Path) -> None:
        await asyncio.to_thread(folder.mkdir)
        began.set()
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="broken"):
        await store.add(A, fail)
    task = asyncio.ensure_future(store.add(A, hang))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list((tmp_path / "e").iterdir()) == []
    assert await store.add(A, building([])) == store.find(A)


@pytest.mark.asyncio
async def test_a_waiting_builder_goes_on_when_the_first_fails(tmp_path: Path) -> None:
    store, began, go_on, log = EnvironmentStore(tmp_path / "e"), asyncio.Event(), asyncio.Event(), list[str]()

    async def fail(folder: Path) -> None:
        began.set()
        await go_on.wait()
        raise RuntimeError("broken")

    first = asyncio.ensure_future(store.add(A, fail))
    await began.wait()
    second = asyncio.ensure_future(store.add(A, building(log)))
    go_on.set()
    assert (await second).id == A
    assert isinstance((await asyncio.gather(first, return_exceptions=True))[0], RuntimeError)
    assert len(log) == 1


@pytest.mark.asyncio
async def test_the_one_used_longest_ago_goes_but_never_one_in_use(tmp_path: Path) -> None:
    store = EnvironmentStore(tmp_path / "e", limit_bytes=250)
    await store.add(A, building([]))
    store.acquire(A)
    await store.add(B, building([]))
    await store.add(C, building([]))
    assert {each for each in (A, B, C) if store.find(each)} == {A, C}
    store.release(A)
    await store.add(B, building([]))
    assert {each for each in (A, B, C) if store.find(each)} == {B, C}


@pytest.mark.asyncio
async def test_what_a_killed_agent_left_is_removed_and_what_it_built_is_found(tmp_path: Path) -> None:
    store = EnvironmentStore(tmp_path / "e")
    await store.add(A, building([]))
    (tmp_path / "e/.building-1234/environment").mkdir(parents=True)
    (tmp_path / "e/.removing-1234").mkdir()
    (tmp_path / "e" / B).mkdir()  # without its record: somebody removed half of it
    another = EnvironmentStore(tmp_path / "e")
    assert len(another.remove_leftovers()) == 2
    assert another.find(A) is not None
    assert another.find(B) is None
    await another.add(B, building([]))
    assert another.find(B) is not None
    assert EnvironmentStore(tmp_path / "none").remove_leftovers() == []
