"""How a failed call reads: the first rank that failed on top, the others below, one exception of the real type."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pytest

from nbgpu.errors import RemoteError
from nbgpu.ranks.errors import (
    CallCancelledError,
    CallTimeoutError,
    LaunchError,
    NoSuchCallError,
    NoSuchRankError,
    RankFailedError,
)
from nbgpu.ranks.failure import failure_of

FRAME = {"file": "/tmp/cell.py", "line": 5, "function": "train", "source": [(4, "a = 1"), (5, "boom()"), (6, "")]}
OTHER = {"file": "/tmp/cell.py", "line": 9, "function": "train"}


def raised(rank: int, time_s: float, ename: str = "ValueError", evalue: str = "boom", **more: Any) -> dict[str, Any]:
    link = {"ename": ename, "evalue": evalue, "frames": [FRAME], "lines": [], "notes": [], "relation": ""}
    return {"kind": "raised", "rank": rank, "time_s": time_s, "chain": [link], **more}


def vanished(rank: int, time_s: float, *, code: int | None = None, signal: int | None = None) -> dict[str, Any]:
    return {"kind": "vanished", "rank": rank, "time_s": time_s, "exit_code": code, "signal": signal, "stack": []}


def waiting(rank: int, collective: str = "all_reduce", *, returned: bool = False) -> dict[str, Any]:
    return {"rank": rank, "collective": collective, "frame": OTHER, "returned": returned, "stack": [OTHER]}


def failed(*failures: dict[str, Any], others: tuple[dict[str, Any], ...] = (), **more: Any) -> dict[str, Any]:
    answer = {"kind": "failed", "world_size": 4, "failures": list(failures), "others": list(others)}
    return {**answer, "places": {"/tmp/cell.py": "Cell In[3]"}, **more}


def told(answer: dict[str, Any], error: BaseException | None = None) -> tuple[BaseException, str]:
    """Returns what is raised, and what the person reads."""
    found = failure_of(answer, "node-a", lambda rank: error)
    frames = found._render_traceback_() if hasattr(found, "_render_traceback_") else [str(found)]
    return found, re.sub(r"\x1b\[\d*m", "", "\n".join(frames))


def test_the_first_that_failed_is_on_top_and_the_others_below() -> None:
    answer = failed(
        raised(3, 2.0, "KeyError", "'later'"), raised(1, 1.0), others=(waiting(0), waiting(2, "", returned=True))
    )
    own = ValueError("boom")
    error, text = told(answer, own)
    assert error is own
    assert text.startswith("ValueError")
    assert "rank 1 of 4 on node-a" in text.splitlines()[0]
    assert "Cell In[3], line 5, in train\n      4 a = 1\n----> 5 boom()\nValueError: boom\n" in text
    assert text.endswith(
        "rank 1 of 4 on node-a raised ValueError\n"
        "rank 3 raised KeyError after it: 'later'\n"
        "rank 0 waited in all_reduce when it was stopped, in train, line 9 of Cell In[3]\n"
        "rank 2 had returned\n"
        "\nhint: `%gpu logs --rank 1` shows all that rank 1 wrote"
    )


def test_who_lost_the_connection_is_never_the_first() -> None:
    lost = "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:2000"
    answer = failed(
        raised(0, 1.0, "RuntimeError", lost), raised(2, 1.1, "RuntimeError", lost), vanished(1, 1.5, signal=9)
    )
    error, text = told(answer)
    assert isinstance(error, RankFailedError)
    assert error.rank == 1
    assert "rank 1 of 4 on node-a was killed by SIGKILL, perhaps for memory" in text
    assert "ranks 0, 2 lost the connection to it (RuntimeError)" in text


def test_equal_whereabouts_are_said_once() -> None:
    _, text = told(failed(raised(0, 1.0), others=(waiting(1), waiting(2), waiting(3, "backward"))))
    assert "ranks 1-2 waited in all_reduce when they were stopped, in train" in text
    assert "rank 3 was in the backward pass when it was stopped, in train" in text


@pytest.mark.parametrize(
    ("code", "signal", "memory", "words"),
    [
        (3, None, None, "ended with exit code 3 before it was done"),
        (None, 9, None, "was killed by SIGKILL, perhaps for memory"),
        (None, 9, True, "was killed by SIGKILL, for memory: the operating system ran out of it"),
        (None, 9, False, "was killed by SIGKILL, not for memory"),
        (None, 11, None, "crashed with SIGSEGV"),
        (None, 15, None, "was ended by SIGTERM"),
        (None, 63, None, "was ended by signal 63"),
    ],
)
def test_how_a_rank_ended_in_words(code: int | None, signal: int | None, memory: bool | None, words: str) -> None:
    _, text = told(failed(vanished(2, 1.0, code=code, signal=signal), killed_for_memory=memory))
    assert f"rank 2 of 4 on node-a {words}" in text


def test_an_exception_that_cannot_be_had_here_is_a_remote_error_of_its_name() -> None:
    error, text = told(failed(raised(1, 1.0, "CustomError", "custom")), None)
    assert isinstance(error, RemoteError)
    assert type(error).__name__ == "CustomError"
    assert "CustomError: custom" in text
    # So is one that would end the loop around the call.
    error, _ = told(failed(raised(1, 1.0, "StopIteration", "")), StopIteration())
    assert isinstance(error, RemoteError)


def test_the_cause_comes_first() -> None:
    failure = raised(1, 1.0)
    cause = {**failure["chain"][0], "ename": "OSError", "evalue": "disk", "relation": "cause"}
    failure["chain"].append(cause)
    _, text = told(failed(failure), ValueError("boom"))
    assert text.index("OSError: disk") < text.index("was the direct cause of") < text.index("ValueError: boom")


def test_a_timeout_shows_every_stack_once() -> None:
    answer = {
        "kind": "timed_out", "timeout_s": 5.0, "world_size": 3, "places": {},
        "others": [waiting(0), waiting(1), {**waiting(2, ""), "stack": []}],
    }  # fmt: skip
    error, text = told(answer)
    assert isinstance(error, TimeoutError)
    assert "ranks 0-1 of 3 on node-a:\n    train, line 9 of File /tmp/cell.py\n" in text
    assert "rank 2 of 3 on node-a:\n    its stack is not known" in text
    assert "ranks 0-1 waited in all_reduce when the time was over" in text
    assert "ended after its timeout of 5 s" in text


def test_an_interrupt_is_one() -> None:
    error, text = told({"kind": "interrupted", "world_size": 2})
    assert isinstance(error, KeyboardInterrupt)
    assert text == "KeyboardInterrupt: the call was interrupted, and its ranks are ended"


def test_what_keeps_ranks_from_starting() -> None:
    lines = ["Traceback", "ModuleNotFoundError: No module named 'torch'"]
    answer = {
        "kind": "not_launched",
        "ename": "ModuleNotFoundError",
        "evalue": "No module named 'torch'",
        "lines": lines,
    }
    error, text = told(answer)
    assert isinstance(error, LaunchError)
    assert "the session has no torch" in text
    answer = {"kind": "not_launched", "ename": "", "evalue": "", "lines": [], "signal": 9}
    assert "their launcher was killed by signal 9" in told(answer)[1]


@pytest.mark.parametrize(
    "error",
    [
        RankFailedError(1, 4, None, 9, None),
        CallTimeoutError(5.0, 4),
        CallCancelledError("s/1"),
        NoSuchCallError("s/1"),
        NoSuchRankError(4, 4),
        LaunchError("text", "hint"),
    ],
)
def test_errors_survive_pickling(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
    assert not str(error).split("\n")[0].endswith(".")
