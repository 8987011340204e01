"""The report of `%gpu stacks`, of what faulthandler wrote."""

from __future__ import annotations

from typing import Any

from nbgpu.stack_report import stacks_in_words
from nbgpu_protocol.v1 import pool_pb2, session_pb2

SITE = "/opt/env/lib/python3.11/site-packages"
IPYTHON = f'  File "{SITE}/IPython/core/interactiveshell.py", line 3500 in run_code\n'
CELL = '  File "/tmp/ipykernel_1/11.py", line {} in {}\n'


def thread(number: int, *frames: str, current: bool = False) -> str:
    head = "Current thread" if current else "Thread"
    return f"{head} 0x{number:016x} (most recent call first):\n{''.join(frames)}\n"


def frame(file: str, line: int, function: str) -> str:
    return f'  File "{file}", line {line} in {function}\n'


IDLE = thread(9, frame("/usr/lib/python3.11/threading.py", 320, "wait"), frame(f"{SITE}/tornado/x.py", 1, "run"))
WAITING = frame(f"{SITE}/torch/distributed/distributed_c10d.py", 2806, "all_reduce")


def kernel(*dumps: str) -> session_pb2.ProcessStacks:
    return session_pb2.ProcessStacks(pid=1, dump="".join(dumps))


def rank(number: int, dump: str) -> session_pb2.ProcessStacks:
    return session_pb2.ProcessStacks(pid=10 + number, rank=number, world_size=4, group_id="c", dump=dump)


def of_rank(*frames: str) -> str:
    return thread(2, *frames, frame("/opt/nbgpu_kernel/ranks/rank.py", 160, "_call"), current=True)


def report(*processes: session_pb2.ProcessStacks, **options: Any) -> str:
    cells = {"/tmp/ipykernel_1/11.py": 7}
    return stacks_in_words(session_pb2.StacksResponse(processes=processes, cells=cells), None, **options)


def test_a_cell_that_computes() -> None:
    dump = IDLE + thread(1, frame(f"{SITE}/numpy/a.py", 5, "dot"), CELL.format(4, "f"), IPYTHON, current=True)
    assert report(kernel(dump)) == (
        "the kernel runs a cell\n"
        "    Cell In[7], line 4, in f\n"
        "    File numpy/a.py, line 5, in dot\n"
        "\n"
        "left out: 1 thread that waits for work or for messages; `--all` shows them"
    )
    assert report(kernel(dump), all_hint="").endswith("for work or for messages")
    assert "tornado/x.py, line 1" in report(kernel(dump), show_all=True)


def test_a_thread_of_the_persons_own_is_shown() -> None:
    own = thread(3, frame("/usr/lib/python3.11/queue.py", 1, "get"), CELL.format(9, "prefetch"))
    text = report(kernel(own, thread(1, CELL.format(2, "<module>"), IPYTHON, current=True)))
    assert "  another thread, in prefetch\n    Cell In[7], line 9, in prefetch\n    File /usr/lib/" in text
    assert "left out" not in text


def test_a_kernel_that_waits_for_messages_and_one_that_awaits() -> None:
    dump = thread(1, frame("/usr/lib/python3.11/asyncio/base_events.py", 600, "run_forever"), current=True)
    assert report(kernel(dump)) == "the kernel runs no code of yours now"
    info = pool_pb2.SessionInfo(kernel_state=pool_pb2.KERNEL_EXECUTING)
    response = session_pb2.StacksResponse(processes=[kernel(dump)])
    assert "the kernel awaits something, or is between two steps of its cell" in stacks_in_words(response, info)


def test_ranks_that_are_at_the_same_place_are_told_of_together() -> None:
    waits = of_rank(WAITING, frame(f"{SITE}/torch/c10d_logger.py", 83, "wrapper"), CELL.format(5, "train"))
    follows = frame("/opt/nbgpu_kernel/ranks/calls.py", 210, "follow")
    text = report(
        kernel(thread(1, follows, CELL.format(1, "<module>"), IPYTHON)),
        rank(0, waits), rank(1, waits), rank(2, of_rank(CELL.format(8, "load"), CELL.format(5, "train"))), rank(3, ""),
    )  # fmt: skip
    assert text.split("\n\n") == [
        "the kernel waits for the ranks of its call",
        "ranks 0-1 of 4 wait in all_reduce\n    Cell In[7], line 5, in train\n"
        "    File torch/c10d_logger.py, line 83, in wrapper\n"
        "    File torch/distributed/distributed_c10d.py, line 2806, in all_reduce",
        "rank 2 of 4 is in load\n    Cell In[7], line 5, in train\n    Cell In[7], line 8, in load",
        "rank 3 of 4 did not show where it is: in the middle of its start or end, or the signal is taken",
    ]


def test_files_that_only_the_notebook_knows() -> None:
    dump = thread(1, frame("/tmp/ipykernel_5/22.py", 3, "mine"), IPYTHON, current=True)
    response = session_pb2.StacksResponse(processes=[kernel(dump)])
    names = {"/tmp/ipykernel_5/22.py": "Cell In[2]"}
    assert "    Cell In[2], line 3, in mine" in stacks_in_words(response, None, names.get)
    assert "    File /tmp/ipykernel_5/22.py, line 3, in mine" in stacks_in_words(response, None)
