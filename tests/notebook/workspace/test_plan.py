"""What becomes of each file: every case once, and edits at random on both sides until both are the same."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbgpu.workspace.plan import BROUGHT, SENT, Direction, Step, plan


@pytest.mark.parametrize(
    ("here", "there", "before", "step"),
    [
        ("a", "a", None, Step.AGREE),
        ("a", "a", "b", Step.AGREE),
        (None, None, "a", Step.FORGET),
        ("a", None, None, Step.SEND),
        (None, "a", None, Step.BRING),
        ("b", "a", "a", Step.SEND),
        ("a", "b", "a", Step.BRING),
        (None, "a", "a", Step.REMOVE),
        ("a", None, "a", Step.GONE_THERE),
        ("b", "c", "a", Step.SEND_AND_KEEP),
        ("b", "c", None, Step.SEND_AND_KEEP),
        (None, "b", "a", Step.BRING_BACK),
        ("b", None, "a", Step.SEND),
    ],
)
def test_every_case(here: str | None, there: str | None, before: str | None, step: Step) -> None:
    sides = [{"x": version} if version is not None else {} for version in (here, there, before)]
    assert plan(*sides) == {"x": step}


def test_one_direction_changes_one_side() -> None:
    here = {"sent": "2", "both": "2", "deleted there": "1"}
    there = {"brought": "2", "both": "3", "deleted here": "1"}
    before = {"both": "1", "deleted here": "1", "deleted there": "1"}
    assert plan(here, there, before, Direction.TO) == {
        "sent": Step.SEND,
        "brought": Step.LEAVE,
        "both": Step.SEND_AND_KEEP,
        "deleted here": Step.REMOVE,
        "deleted there": Step.SEND,
    }
    assert plan(here, there, before, Direction.FROM) == {
        "sent": Step.LEAVE,
        "brought": Step.BRING,
        "both": Step.DIFFER,
        "deleted here": Step.LEAVE,
        "deleted there": Step.GONE_THERE,
    }


@dataclass
class Folders:
    """Two folders that are changed at random, and brought in step as the steps say."""

    here: dict[str, str] = field(default_factory=dict)
    there: dict[str, str] = field(default_factory=dict)
    noted: dict[str, str] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    """Versions that a person has taken away: written over, or deleted, on the side where they were last."""

    def sync(self) -> set[Step]:
        steps = plan(self.here, self.there, self.noted)
        for path, step in steps.items():
            if step in SENT:
                if step is Step.SEND_AND_KEEP:
                    self.there[f"{path}.session-{self.there[path]}"] = self.there[path]
                self.there[path] = self.noted[path] = self.here[path]
            elif step in BROUGHT:
                self.here[path] = self.noted[path] = self.there[path]
            elif step is Step.REMOVE:
                del self.there[path], self.noted[path]
            elif step is Step.AGREE:
                self.noted[path] = self.here[path]
            elif step is Step.FORGET:
                del self.noted[path]
        return set(steps.values())


EDITS = st.lists(
    st.tuples(st.sampled_from(["here", "there", "sync"]), st.sampled_from(["x", "y"]), st.sampled_from("12345-")),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(EDITS)
def test_edits_at_random_converge_and_nothing_is_lost(edits: list[tuple[str, str, str]]) -> None:
    folders = Folders()
    for number, (side, path, content) in enumerate(edits):
        if side == "sync":
            folders.sync()
            continue
        files: dict[str, str] = getattr(folders, side)
        if path in files:
            folders.lost.add(files[path])
        if content == "-":
            files.pop(path, None)
        else:
            files[path] = f"{content}, edit {number}"
    unsynced = {*folders.here.values(), *folders.there.values()}
    here_before = dict(folders.here)
    folders.sync()
    assert here_before.keys() <= folders.here.keys()  # no file is deleted here
    folders.sync()  # which brings what was kept there
    assert folders.sync() <= {Step.AGREE, Step.GONE_THERE}
    # The same on both sides, but for what was deleted there and is kept here.
    assert folders.there.items() <= folders.here.items()
    remaining = {*folders.here.values(), *folders.there.values()}
    assert unsynced - folders.lost <= remaining
