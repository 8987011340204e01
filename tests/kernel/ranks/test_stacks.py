"""Where a rank is, read from what faulthandler wrote."""

from __future__ import annotations

import faulthandler
import os
import sysconfig
from pathlib import Path

import nbgpu_kernel.ranks
from nbgpu_kernel.ranks.stacks import Frame, collective, main_thread, threads, users_frame

OWN = os.path.join(os.path.dirname(os.path.abspath(nbgpu_kernel.ranks.__file__)), "rank.py")
PACKAGES = sysconfig.get_path("purelib")
TORCH = f"{PACKAGES}/torch/distributed"
DUMP = f"""Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3/threading.py", line 1 in wait

Current thread 0x00007f0000000002 (most recent call first):
  File "{TORCH}/distributed_c10d.py", line 100 in _wait
  File "{TORCH}/distributed_c10d.py", line 2806 in all_reduce
  File "{TORCH}/c10d_logger.py", line 81 in wrapper
  File "/tmp/ipykernel_1/123.py", line 5 in train
  File "{OWN}", line 200 in _call
  File "{OWN}", line 100 in run
"""


def test_the_collective_and_the_line_of_the_persons_code() -> None:
    frames = main_thread(DUMP)
    assert [frame.function for frame in frames] == ["_wait", "all_reduce", "wrapper", "train"]
    assert collective(frames) == "all_reduce"
    assert users_frame(frames) == Frame("/tmp/ipykernel_1/123.py", 5, "train")


def test_the_last_of_several_dumps_counts() -> None:
    later = DUMP.replace("all_reduce", "barrier")
    assert collective(main_thread(DUMP + later)) == "barrier"


def test_the_backward_pass_is_named() -> None:
    frames = [Frame(f"{PACKAGES}/torch/autograd/graph.py", 1, "_engine_run_backward"), Frame("/a.py", 1, "f")]
    assert collective(frames) == "backward"
    assert collective([Frame("/a.py", 1, "f")]) == ""


def test_a_dump_without_the_function_says_nothing() -> None:
    assert main_thread("") == []
    assert main_thread("Fatal Python error: Aborted\n") == []
    assert users_frame([]) is None


def test_it_reads_what_this_pythons_faulthandler_writes(tmp_path: Path) -> None:
    path = tmp_path / "stacks"
    program = compile("def _call(dump):\n    dump()\n", OWN, "exec")
    namespace: dict[str, object] = {}
    exec(program, namespace)
    with path.open("w") as file:

        def train() -> None:
            faulthandler.dump_traceback(file, all_threads=True)

        namespace["_call"](train)  # type: ignore[operator]
    frames = main_thread(path.read_text())
    assert [frame.function for frame in frames] == ["train"]
    assert users_frame(frames) == frames[0]


def test_the_stack_of_one_thread_alone_has_no_identity() -> None:
    dump = 'Stack (most recent call first):\n  File "/a.py", line 1 in old\nStack (most recent call first):\n' + (
        '  File "/a.py", line 2 in inner\n  File "/a.py", line 3 in outer\n'
    )
    assert threads(dump) == [[Frame("/a.py", 2, "inner"), Frame("/a.py", 3, "outer")]]
