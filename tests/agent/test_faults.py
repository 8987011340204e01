"""Faults at random moments of a cell: its output is that of an undisturbed run, byte for byte."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agent_processes import workplace
from faults.notebooks import NOTEBOOK_FAULTS, NotebookScene, notebook_in, run_given_up, run_killed, undisturbed_in
from faults.scenes import FAULTS, STDOUT, Outcome, Place, is_beginning, lost, run_cell, scene_in

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    with workplace() as each:
        place = Place(each)
        place.start()
        yield place
        assert place.end() == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(place: Place) -> Outcome:
    async with scene_in(place) as scene:
        outcome = await run_cell(scene)
    assert outcome.error == ""
    return outcome


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "kernel killed"])
async def test_nothing_is_lost(place: Place, undisturbed: Outcome, name: str) -> None:
    async with scene_in(place) as scene:
        moment = random.randrange(len(STDOUT) // 2)
        assert lost(await run_cell(scene, FAULTS[name], moment), undisturbed) == "", f"after {moment} characters"


async def test_a_kernel_that_is_killed_is_said_after_what_it_printed(place: Place, undisturbed: Outcome) -> None:
    async with scene_in(place) as scene:
        moment = random.randrange(len(STDOUT) // 2)
        outcome = await run_cell(scene, FAULTS["kernel killed"], moment)
    assert outcome.error == "KernelDiedError"
    assert is_beginning(outcome, undisturbed)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def notebook(place: Place) -> AsyncIterator[NotebookScene]:
    async with notebook_in(place) as scene:
        yield scene


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed_notebook(notebook: NotebookScene) -> Outcome:
    return await undisturbed_in(notebook)


@pytest.mark.parametrize("name", NOTEBOOK_FAULTS)
async def test_a_notebook_that_is_killed_finds_all_that_its_cell_printed(
    notebook: NotebookScene, undisturbed_notebook: Outcome, name: str
) -> None:
    seed = random.randrange(1 << 30)
    outcome = await run_killed(notebook, random.Random(seed), NOTEBOOK_FAULTS[name])
    assert lost(outcome, undisturbed_notebook) == "", f"with moments of seed {seed}"


async def test_a_notebook_that_gave_up_waiting_for_its_link_finds_the_rest(
    notebook: NotebookScene, undisturbed_notebook: Outcome
) -> None:
    error, outcome = await run_given_up(notebook)
    assert error == "AgentUnreachableError"
    assert lost(outcome, undisturbed_notebook) == ""
