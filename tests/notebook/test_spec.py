"""Specs: every spelling is read, and every error points at the place."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgpu.errors import SpecError
from nbgpu.spec import Alternative, complete_spec, parse_spec
from nbgpu_protocol.accelerator_types import NOMINAL_MEMORY_GB
from nbgpu_protocol.v1 import pool_pb2

GB = 10**9


@pytest.mark.parametrize(
    ("text", "alternatives"),
    [
        ("H100", [("H100", 1, 0)]),
        ("H100x8", [("H100", 8, 0)]),
        ("h100X8", [("H100", 8, 0)]),
        ("H100:8", [("H100", 8, 0)]),
        ("8xH100", [("H100", 8, 0)]),
        ("H100 x 8", [("H100", 8, 0)]),
        ("H100×8", [("H100", 8, 0)]),
        ("GPU_8xH100", [("H100", 8, 0)]),
        ("GPU_1xA10", [("A10", 1, 0)]),
        ("A100-80GBx8", [("A100", 8, 80)]),
        ("h100_80gb", [("H100", 1, 80)]),
        ("24GB+", [("", 1, 24)]),
        ("24 gb+ x2", [("", 2, 24)]),
        ("2x24GiB+", [("", 2, 24)]),
        ("any", [("", 1, 0)]),
        ("ANY:4", [("", 4, 0)]),
        ("CPU", [("CPU", 1, 0)]),
        ("RTX4090", [("RTX-4090", 1, 0)]),
        ("rtx-4090x2", [("RTX-4090", 2, 0)]),
        ("GTX1080", [("GTX1080", 1, 0)]),
        ("MI300X", [("MI300X", 1, 0)]),
        ("MI300Xx8", [("MI300X", 8, 0)]),
        ("H100x8|A100-80GBx8", [("H100", 8, 0), ("A100", 8, 80)]),
        (" H100x8 | CPU ", [("H100", 8, 0), ("CPU", 1, 0)]),
        ("FutureChip9x3", [("FUTURECHIP9", 3, 0)]),
    ],
)
def test_every_spelling_is_read(text: str, alternatives: list[tuple[str, int, int]]) -> None:
    expected = tuple(Alternative(kind, count, gb * GB) for kind, count, gb in alternatives)
    assert parse_spec(text).alternatives == expected
    assert parse_spec(text).text == text.strip()


@given(
    st.sampled_from(sorted(NOMINAL_MEMORY_GB)),
    st.integers(1, 4096),
    st.sampled_from(["{t}x{n}", "{t}:{n}", "{n}x{t}", "GPU_{n}x{t}", "{t} x {n}", " {n}X{t} "]),
    st.booleans(),
)
def test_all_forms_of_one_spec_mean_the_same(kind: str, count: int, form: str, lower: bool) -> None:
    text = form.format(t=kind, n=count)
    assert parse_spec(text.lower() if lower else text).alternatives == (Alternative(kind, count),)


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("", 0, "empty"),
        ("   ", 0, "empty"),
        ("H100xeight", 5, "a count is expected"),
        ("H100x", 5, "a count is expected"),
        ("A100|H100:", 10, "a count is expected"),
        ("H100x0", 5, "between 1 and"),
        ("99999xH100", 0, "between 1 and"),
        ("CPUx4", 0, "no count"),
        ("H100|", 5, "missing"),
        ("|H100", 0, "missing"),
        ("H100,8", 4, "does not go on"),
        ("H100x8, A100", 6, "a count is expected"),
        ("80GB", 0, "does not go on"),
        ("x8", 0, "a type is missing"),
    ],
)
def test_errors_point_at_what_is_wrong(text: str, position: int, problem: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse_spec(text)
    lines = str(raised.value).split("\n")
    assert problem in lines[0]
    assert "hint:" in str(raised.value)
    if text.strip():
        assert raised.value.position == position
        assert lines[2].index("^") == lines[1].index(text) + position


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    refused: SpecError | None = None
    try:
        spec = parse_spec(text)
    except SpecError as error:
        refused = error
    else:
        assert spec.alternatives
        assert all(each.count >= 1 for each in spec.alternatives)
    if refused is not None:
        assert 0 <= refused.position <= len(text)
        assert str(pickle.loads(pickle.dumps(refused))) == str(refused)


def test_a_spec_survives_the_protocol() -> None:
    message = parse_spec("H100x8|24GB+").to_message()
    assert [(each.type, each.count, each.min_memory_bytes) for each in message.alternatives] == [
        ("H100", 8, 0),
        ("", 1, 24 * GB),
    ]
    assert message.text == "H100x8|24GB+"


def held(*types: str, memory_gb: int = 80) -> list[pool_pb2.Accelerator]:
    return [pool_pb2.Accelerator(type=kind, memory_bytes=memory_gb * GB) for kind in types]


def test_a_spec_is_met_by_exactly_what_it_asks_for() -> None:
    assert parse_spec("H100x2").is_met_by(held("H100", "H100"))
    assert not parse_spec("H100").is_met_by(held("H100", "H100"))
    assert not parse_spec("H100x2").is_met_by(held("A100", "A100"))
    assert parse_spec("A100|H100").is_met_by(held("H100"))
    assert parse_spec("any").is_met_by(held("H100"))
    assert not parse_spec("any").is_met_by(held("CPU", memory_gb=0))
    assert parse_spec("CPU").is_met_by(held("CPU", memory_gb=0))
    assert not parse_spec("A100-80GB").is_met_by(held("A100", memory_gb=40))


OFFERS = [
    pool_pb2.Offer(type="H100", total=8, free=8),
    pool_pb2.Offer(type="A10", total=2, free=0),
    pool_pb2.Offer(type="CPU", shared=True),
]


def test_specs_are_completed_from_what_is_offered() -> None:
    assert complete_spec("h", OFFERS) == ["H100", "H100x2", "H100x4", "H100x8"]
    assert complete_spec("H100x8|a1", OFFERS) == ["H100x8|A10", "H100x8|A10x2"]
    assert complete_spec("", OFFERS) == ["H100", "H100x2", "H100x4", "H100x8", "A10", "A10x2", "CPU", "any"]
    assert complete_spec("zzz", OFFERS) == []
