"""How long a `--timeout` is, and what a cell raises whose time was over."""

from __future__ import annotations

import pickle

import pytest

from nbgpu.cell_timeout import CellTimeoutError, duration_in_words, parse_duration, timeout_error
from nbgpu.errors import CommandError
from nbgpu_protocol.v1 import session_pb2

DUMP = """Current thread 0x0000000000000001 (most recent call first):
  File "/k/5.py", line 7 in train
  File "/k/5.py", line 9 in <module>
  File "/e/site-packages/IPython/core/interactiveshell.py", line 3500 in run_code
"""
EVENT = session_pb2.CellTimedOut(
    request_id="r", timeout_s=5400, processes=[session_pb2.ProcessStacks(pid=1, dump=DUMP)], cells={"/k/5.py": 5}
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("90s", 90),
        ("10m", 600),
        ("10min", 600),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("1H", 3600),
        ("2d", 172800),
    ],
)
def test_a_time_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "soon", "-5", "10 m", "m10", "1h30", "5x", "10m!", "inf", "nan"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(CommandError, match="--timeout is a time above 0, not"):
        parse_duration(text)


def test_times_in_words() -> None:
    assert [duration_in_words(each) for each in (0.5, 30, 90, 600, 5400, 7205)] == [
        "0.5 s", "30 s", "1 min 30 s", "10 min", "1 h 30 min", "2 h 5 s",
    ]  # fmt: skip


def test_what_is_raised_says_how_long_and_where() -> None:
    error = timeout_error(EVENT, frames=["the frames", "KeyboardInterrupt: "])
    assert isinstance(error, CellTimeoutError)
    assert isinstance(error, TimeoutError)
    assert error.message() == (
        "the cell was interrupted after its timeout of 1 h 30 min; it was in train, line 7 of Cell In[5]"
    )
    assert "hint: a larger --timeout" in str(error)
    assert "    Cell In[5], line 9, in <module>\n    Cell In[5], line 7, in train" in error.stacks
    shown = error._render_traceback_()  # type: ignore[attr-defined]
    assert shown[0] == "the frames"
    assert "KeyboardInterrupt" not in "".join(shown)
    again = pickle.loads(pickle.dumps(CellTimeoutError(2.0, "in f", "stacks", kernel_ended=True)))
    assert (again.timeout_s, again.where, again.stacks, again.kernel_ended) == (2.0, "in f", "stacks", True)


def test_a_kernel_that_had_to_be_ended_shows_the_stacks() -> None:
    error = timeout_error(EVENT, kernel_ended=True)
    assert "so the session's kernel was ended, with its variables; it was in train" in str(error)
    assert "the kernel runs a cell" in error._render_traceback_()[0]  # type: ignore[attr-defined]
    unknown = timeout_error(session_pb2.CellTimedOut(timeout_s=3))
    assert str(unknown).startswith("the cell was interrupted after its timeout of 3 s\n")
