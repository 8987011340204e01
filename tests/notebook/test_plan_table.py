"""The table of `%gpu plan`: what is unknown is said to be, and what the estimate stands on."""

from __future__ import annotations

from nbgpu.plan_table import plan_table, size_in_words
from nbgpu_protocol.v1 import environment_pb2
from nbgpu_protocol.v1.environment_pb2 import PlannedDistribution

NUMPY = PlannedDistribution(name="numpy", version="2.3.4", action=environment_pb2.FETCH, size_bytes=16_600_000)
TORCH = PlannedDistribution(name="torch", version="2.13.0+cu130", action=environment_pb2.SWAP, why="CUDA 13")
SIX = PlannedDistribution(name="six", version="1.17.0", action=environment_pb2.CACHED)


def table_of(*distributions: PlannedDistribution, everything: bool = False, **fields: object) -> list[str]:
    values: dict[str, object] = {
        "distributions": distributions, "environment_id": "e", "python_version": "3.12.7", "estimated_s": 1.2,
        "bytes_per_s": 20e6, "download_bytes": 16_600_000,
    }  # fmt: skip
    plan = environment_pb2.PlanResponse(**{**values, **fields})  # type: ignore[arg-type]
    return plan_table(plan, everything=everything).splitlines()


def test_sizes_that_are_not_known_are_unknown_and_make_the_estimate_a_least_one() -> None:
    lines = table_of(NUMPY, TORCH, SIX, unknown_sizes=1)
    assert lines == [
        "PACKAGE  VERSION       ACTION  SIZE     WHY",
        "torch    2.13.0+cu130  swap    unknown  CUDA 13",
        "",
        "3 packages for Python 3.12.7: 1 swapped, 1 fetched, 1 cached",
        "to fetch: 16.6 MB in 1 package, and 1 of unknown size",
        "building it takes more than 1.2 s, at an assumed 20 MB/s",
    ]


def test_everything_is_shown_on_request_and_what_is_cached_has_no_size() -> None:
    lines = table_of(NUMPY, SIX, everything=True)
    assert [line.split() for line in lines[1:3]] == [
        ["numpy", "2.3.4", "fetch", "16.6", "MB"],
        ["six", "1.17.0", "cached"],
    ]
    assert lines[-1] == "building it takes about 1.2 s, at an assumed 20 MB/s"
    measured = table_of(NUMPY, rate_measured=True, bytes_per_s=55e6)
    assert measured[-1] == "building it takes about 1.2 s, at 55 MB/s, as its last downloads came"


def test_what_needs_no_build_gets_no_estimate() -> None:
    assert table_of(SIX, built=True)[-1] == "the environment is there already"
    assert table_of(SIX, download_bytes=0)[-1] == "nothing is to fetch; building it takes about 1.2 s"
    gone = PlannedDistribution(name="gone", version="1", action=environment_pb2.IMPOSSIBLE, why="no index has it")
    lines = table_of(NUMPY, gone, environment_id="")
    assert lines[1].split() == ["gone", "1", "impossible", "no", "index", "has", "it"]
    assert lines[-1] == "as it is, this environment cannot be built there"


def test_a_long_reason_is_cut_in_the_table_and_stands_below_it_in_whole() -> None:
    why = "a reason " * 12
    lines = table_of(PlannedDistribution(name="long", version="1", action=environment_pb2.LEAVE_OUT, why=why))
    assert lines[1].endswith("…")
    assert max(map(len, lines[:2])) < 100
    assert lines[3] == f"long: {why}"


def test_sizes_in_words() -> None:
    assert [size_in_words(each) for each in (2_512, 148_047, 526_605_292, 2_900_000_000)] == [
        "3 KB", "0.1 MB", "526.6 MB", "2.9 GB",
    ]  # fmt: skip
