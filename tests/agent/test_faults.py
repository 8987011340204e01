"""Faults at random moments of a cell: its output is that of an undisturbed run, byte for byte."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agent_processes import workplace
from faults.kinds import FAULTS, judge, place_for, why_not
from faults.links import run_in_one_cut
from faults.notebooks import NOTEBOOK_FAULTS, NotebookScene, notebook_in, run_given_up, run_killed, undisturbed_in
from faults.scenes import STDOUT, Outcome, Place, lost, run_cell, scene_in, without_code

OWN_PLACES: dict[str, tuple[str, ...]] = {"disk": ("disk full",), "clock": ("clock set forwards", "clock set back")}

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place() -> AsyncIterator[Place]:
    with workplace() as each:
        place = Place(each)
        place.start()
        yield place
        assert place.end() == []


async def run_once(place: Place, name: str, seed: int) -> Outcome:
    moments = random.Random(seed)
    async with scene_in(place, moments) as scene:
        return await run_cell(scene, FAULTS[name], moments.randrange(len(STDOUT) // 2))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def undisturbed(place: Place) -> Outcome:
    async with scene_in(place) as scene:
        outcome = await run_cell(scene)
    assert outcome.error == ""
    return outcome


@pytest.mark.parametrize(
    "name", [name for name in FAULTS if name not in {each for names in OWN_PLACES.values() for each in names}]
)
async def test_nothing_is_lost(place: Place, undisturbed: Outcome, name: str) -> None:
    seed = zlib.crc32(name.encode())
    outcome = await run_once(place, name, seed)
    assert judge(name, outcome, undisturbed) == "", f"with moments of seed {seed}"


@pytest.mark.parametrize("names", OWN_PLACES.values(), ids=list(OWN_PLACES))
async def test_nothing_is_lost_on_a_machine_of_its_own(undisturbed: Outcome, names: tuple[str, ...]) -> None:
    if why := why_not(names[0]):
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    with workplace() as each:
        place = Place(each)
        with place_for(names[0], place):
            place.start()
            for name in names:
                seed = zlib.crc32(name.encode())
                outcome = await run_once(place, name, seed)
                assert judge(name, outcome, undisturbed) == "", f"{name}, with moments of seed {seed}"
            assert place.end() == []


async def test_sessions_whose_links_are_cut_at_once_all_come_back_and_their_people_are_told(
    place: Place, undisturbed: Outcome
) -> None:
    seed = random.randrange(1 << 30)
    for outcome, untold in await run_in_one_cut(place, 3, random.Random(seed), cut_s=1.0):
        assert lost(without_code(outcome), without_code(undisturbed)) == "", f"with moments of seed {seed}"
        assert untold == ""


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
