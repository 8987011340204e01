"""What the magics make of lines and cells, before anything is sent."""

from __future__ import annotations

import pytest

from nbgpu import errors
from nbgpu.extension import sticky_transform
from nbgpu.magics import STICKY_OPTION, CommandLine, code_to_run, parse_line, take_value

ALLOWED = frozenset({"--new", "--no-wait", STICKY_OPTION})


@pytest.mark.parametrize(
    ("first_line", "cell", "code"),
    [
        ("%%gpu", "1 / 0\n", "# %%gpu\n1 / 0\n"),
        ("%%gpu H100x8 --no-wait", "\n\n1 / 0", "# %%gpu H100x8 --no-wait\n\n\n1 / 0"),
        ("", "1 / 0\n", "1 / 0\n"),
        ("%%gpu", "", "# %%gpu\n"),
        ("%%gpu", "%%time\nf()", "%%time\nf()"),
        ("%%gpu", "\n  %%bash\nls", "%%bash\nls"),
        ("%%gpu", "%time f()", "# %%gpu\n%time f()"),
    ],
)
def test_code_keeps_the_line_numbers_that_the_person_sees(first_line: str, cell: str, code: str) -> None:
    assert code_to_run(first_line, cell) == code


@pytest.mark.parametrize(
    ("line", "words", "options"),
    [
        ("", (), set()),
        ("  H100x8  ", ("H100x8",), set()),
        ("H100x8 --no-wait", ("H100x8",), {"--no-wait"}),
        ("--new A100 | H100", ("A100", "|", "H100"), {"--new"}),
        ("'24GB+' --new --no-wait", ("24GB+",), {"--new", "--no-wait"}),
    ],
)
def test_a_line_is_words_and_options(line: str, words: tuple[str, ...], options: set[str]) -> None:
    assert parse_line(line, ALLOWED) == CommandLine(words, frozenset(options))


def test_the_words_of_a_line_are_a_spec() -> None:
    assert parse_line("", ALLOWED).spec is None
    spec = parse_line("H100x8 | A100-80GBx8", ALLOWED).spec
    assert spec is not None
    assert len(spec.alternatives) == 2
    with pytest.raises(errors.SpecError):
        _ = parse_line("H100x", ALLOWED).spec


def test_an_option_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(errors.CommandError) as raised:
        parse_line("H100 --now", ALLOWED)
    assert raised.value.message() == "there is no option --now here (there is: --new, --no-wait)"
    with pytest.raises(errors.CommandError, match=r"there is no option -x here \(there is: none\)"):
        parse_line("-x", frozenset())


def test_a_quote_that_is_not_closed_is_said_so() -> None:
    with pytest.raises(errors.CommandError, match='cannot read "H100 \'x": no closing quotation'):
        parse_line("H100 'x", ALLOWED)


@pytest.mark.parametrize("first", ["x = 1\n", "\n", "%time f()\n", "%%bash\n", "%gpus\n", "# %gpu\n"])
def test_while_switched_on_every_cell_runs_there(first: str) -> None:
    lines = [first, "y = 2\n"]
    expected = lines if not first.strip() else [f"%%gpu {STICKY_OPTION}\n", *lines]
    assert sticky_transform(lambda: True)(list(lines)) == expected


@pytest.mark.parametrize(
    "first", ["%gpu off\n", "%%gpu H100\n", "%load_ext nbgpu\n", "%unload_ext nbgpu\n", "  %gpu\n"]
)
def test_while_switched_on_its_own_commands_run_here(first: str) -> None:
    assert sticky_transform(lambda: True)([first, "y\n"]) == [first, "y\n"]


def test_while_switched_off_nothing_changes() -> None:
    assert sticky_transform(lambda: False)(["x = 1\n"]) == ["x = 1\n"]
    assert sticky_transform(lambda: True)([]) == []


def test_typing_does_not_run_the_transform() -> None:
    assert sticky_transform(lambda: True).has_side_effects  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "rest", "value"),
    [
        ("H100 --new", "H100 --new", None),
        ("--pool lab H100", "H100", "lab"),
        ("H100 --pool='the lab'", "H100", "the lab"),
        ("H100 --pool 'the lab' --new", "H100 --new", "the lab"),
        ("--pools lab", "--pools lab", None),
    ],
)
def test_an_option_with_a_value_is_taken_out_of_a_line(line: str, rest: str, value: str | None) -> None:
    assert take_value(line, "--pool") == (rest, value)


@pytest.mark.parametrize("line", ["H100 --pool", "--pool --new", "--pool=", "--pool 'lab"])
def test_an_option_without_its_value_is_said(line: str) -> None:
    with pytest.raises(errors.CommandError):
        take_value(line, "--pool")
