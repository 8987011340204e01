"""The phrases that a person reads."""

from __future__ import annotations

from typing import Any

import pytest

from nbgpu import words
from nbgpu_protocol.v1 import pool_pb2

GB = 10**9
GIB = 1 << 30


def accelerator(type: str, *, simulated: bool = False, id: str = "") -> pool_pb2.Accelerator:
    return pool_pb2.Accelerator(id=id or type, type=type, simulated=simulated)


@pytest.mark.parametrize(
    ("held", "text"),
    [
        ([], "none"),
        ([accelerator("H100")], "H100"),
        ([accelerator("H100")] * 8, "H100 ×8"),
        ([accelerator("H100", simulated=True)] * 2, "H100 ×2 (simulated)"),
        ([accelerator("A10"), accelerator("H100"), accelerator("A10")], "A10 ×2, H100"),
    ],
)
def test_accelerators(held: list[pool_pb2.Accelerator], text: str) -> None:
    assert words.accelerators_in_words(iter(held)) == text


@pytest.mark.parametrize(
    ("offer", "text"),
    [
        ({"free": 8, "total": 8}, "8 of 8 free"),
        ({"free": 2, "total": 8, "queued": 1}, "2 of 8 free, 1 waiting"),
        ({"free": 0, "total": 2}, "busy (all 2)"),
        ({"free": 0, "total": 2, "queued": 3}, "busy (all 2), 3 waiting"),
        ({"free": 1, "total": 1, "queued": 5, "shared": True}, "free"),
    ],
)
def test_offers(offer: dict[str, Any], text: str) -> None:
    assert words.offer_in_words(pool_pb2.Offer(**offer)) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (-1, "0.0 s"),
        (0.84, "0.8 s"),
        (59.94, "59.9 s"),
        (60, "1:00"),
        (92.9, "1:32"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (7510, "2:05:10"),
    ],
)
def test_durations(duration_s: float, text: str) -> None:
    assert words.duration_in_words(duration_s) == text


@pytest.mark.parametrize(("memory_bytes", "text"), [(0, ""), (80 * GB, "80 GB"), (24 * GB, "24 GB")])
def test_memory(memory_bytes: int, text: str) -> None:
    assert words.memory_in_words(memory_bytes) == text


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"asked_for": True, "signal": 9}, "was ended as asked"),
        ({"signal": 9}, "was killed by SIGKILL, as the system does when memory runs out"),
        ({"signal": 11}, "was killed by SIGSEGV"),
        ({"signal": 250}, "was killed by signal 250"),
        ({"exit_code": 3}, "ended with exit code 3"),
        ({"exit_code": 0}, "ended with exit code 0"),
        ({}, "ended"),
    ],
)
def test_ends_of_kernels(fields: dict[str, Any], text: str) -> None:
    assert words.exit_in_words(pool_pb2.KernelExit(**fields)) == f"the session's kernel {text}"


def test_the_end_of_a_kernel_comes_with_its_last_lines() -> None:
    exit = pool_pb2.KernelExit(exit_code=1, stderr_tail="".join(f"line {i}\n" for i in range(40)))
    first, *lines = words.exit_with_tail(exit).splitlines()
    assert first == "the session's kernel ended with exit code 1; its last lines on standard error:"
    assert lines == [f"    line {i}" for i in range(25, 40)]


def test_a_crash_is_told_from_its_beginning() -> None:
    report = ["noise", "Fatal Python error: Segmentation fault", *(f"frame {i}" for i in range(40))]
    exit = pool_pb2.KernelExit(signal=11, stderr_tail="\n".join(report))
    lines = words.exit_with_tail(exit).splitlines()
    assert lines[1] == "    Fatal Python error: Segmentation fault"
    assert lines[-1] == "    frame 13"


def test_a_kernel_that_said_nothing_ends_in_one_line() -> None:
    assert words.exit_with_tail(pool_pb2.KernelExit(exit_code=1, stderr_tail=" \n")) == (
        "the session's kernel ended with exit code 1"
    )


NOW = 1_800_000_000.0


def session(**fields: Any) -> pool_pb2.SessionInfo:
    return pool_pb2.SessionInfo(
        **{
            "id": "4f2a",
            "notebook_name": "train.ipynb",
            "accelerators": [accelerator("H100")],
            "node": pool_pb2.Node(hostname="lab-1"),
            "kernel_state": pool_pb2.KERNEL_IDLE,
            "last_active_unix_s": NOW,
            **fields,
        }
    )


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "idle"),
        ({"last_active_unix_s": NOW - 59}, "idle"),
        ({"last_active_unix_s": NOW - 12 * 60}, "idle 12 min"),
        ({"kernel_state": pool_pb2.KERNEL_STARTING}, "starting its kernel"),
        ({"phase": pool_pb2.QUEUED, "queue_position": 2, "queue_length": 5}, "queued, 2nd of 5"),
        ({"phase": pool_pb2.MATERIALISING, "detail": "Installing 12 of 80: torch"}, "Installing 12 of 80: torch"),
        ({"phase": pool_pb2.MATERIALISING}, "building the environment"),
        (
            {
                "kernel_state": pool_pb2.KERNEL_EXECUTING,
                "executing": pool_pb2.Execution(execution_count=7, started_unix_s=NOW - 92),
            },
            "running cell [7] for 1:32",
        ),
        (
            {"kernel_state": pool_pb2.KERNEL_EXECUTING, "executing": pool_pb2.Execution(started_unix_s=NOW - 1)},
            "running a cell for 1.0 s",
        ),
        (
            {"kernel_state": pool_pb2.KERNEL_DEAD, "kernel_exit": pool_pb2.KernelExit(exit_code=3)},
            "kernel ended with exit code 3",
        ),
    ],
)
def test_what_a_session_does(fields: dict[str, Any], text: str) -> None:
    assert words.state_in_words(session(**fields), NOW) == text


def test_what_a_session_does_goes_by_the_clock() -> None:
    assert words.state_in_words(session(last_active_unix_s=0)).startswith("idle ")


@pytest.mark.parametrize(
    ("phase", "text"),
    [
        (pool_pb2.PLACING, "Placing H100 on lab-1"),
        (pool_pb2.MATERIALISING, "Building the environment on H100 on lab-1"),
        (pool_pb2.STARTING, "Starting H100 on lab-1"),
        (pool_pb2.READY, "H100 on lab-1"),
    ],
)
def test_what_happens_to_a_request(phase: pool_pb2.Phase, text: str) -> None:
    assert words.update_in_words(pool_pb2.SessionUpdate(phase=phase, session=session())) == text


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (1, "1st"),
        (2, "2nd"),
        (3, "3rd"),
        (4, "4th"),
        (11, "11th"),
        (12, "12th"),
        (13, "13th"),
        (21, "21st"),
        (112, "112th"),
    ],
)
def test_places_in_the_queue(place: int, text: str) -> None:
    update = pool_pb2.SessionUpdate(phase=pool_pb2.QUEUED, queue_position=place, queue_length=200)
    assert words.update_in_words(update) == f"Queued, {text} of 200"
    update.detail = "8 H100 are held by another notebook"
    assert words.update_in_words(update) == f"Queued, {text} of 200: 8 H100 are held by another notebook"


def test_a_table_is_as_wide_as_it_must_be_and_has_no_spaces_at_the_end() -> None:
    assert words.table(("A", "LONG", ""), [("wide", "b", ""), ("c", "d", "e")]) == (
        "A     LONG\nwide  b\nc     d     e"
    )


def test_the_table_of_offers() -> None:
    offers = [
        pool_pb2.Offer(type="H100", memory_bytes=80 * GB, free=1, total=2, simulated=True, node_hostname="lab-1"),
        pool_pb2.Offer(type="CPU", shared=True, node_hostname="lab-1"),
    ]
    assert words.offers_table(offers).splitlines() == [
        "ACCELERATOR  MEMORY  STATE                   NODE",
        "H100         80 GB   1 of 2 free  simulated  lab-1",
        "CPU                  free                    lab-1",
    ]


def test_the_table_of_sessions() -> None:
    here, there = session(notebook_id="n1"), session(id="77", notebook_id="n2", notebook_name="")
    lines = words.sessions_table([here, there], "n1").splitlines()
    assert lines[0].split() == ["SESSION", "NOTEBOOK", "ACCELERATOR", "STATE"]
    assert lines[1].startswith("4f2a     train.ipynb  H100")
    assert lines[1].endswith("this notebook")
    assert lines[2].startswith("77       -            H100")
    assert "this notebook" not in lines[2]
    assert "this notebook" not in words.sessions_table([session(notebook_id="")])
    assert words.sessions_table([]) == "no sessions"


def test_the_table_of_samples_leaves_blank_what_is_unknown() -> None:
    held = [accelerator("H100", id="0"), accelerator("A10", id="1"), accelerator("T4", id="2")]
    samples = [
        pool_pb2.Sample(accelerator_id="0", utilisation_percent=1),
        pool_pb2.Sample(
            accelerator_id="0",
            utilisation_percent=97.4,
            memory_used_bytes=3 * GIB // 2,
            memory_total_bytes=80 * GIB,
            power_watts=412.6,
            temperature_celsius=61,
            simulated=True,
        ),
        pool_pb2.Sample(accelerator_id="1"),
        pool_pb2.Sample(accelerator_id="another's"),
    ]
    assert words.samples_table(held, samples).splitlines() == [
        "ACCELERATOR       BUSY  MEMORY         POWER  TEMPERATURE",
        "H100 (simulated)  97%   1.5 of 80 GiB  413 W  61 °C",
        "A10                     ? GiB",
    ]
