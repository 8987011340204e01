"""What was used and spent, in words."""

from __future__ import annotations

import pytest

from nbgpu import errors
from nbgpu.cost_words import accelerator_time, allowance_in_words, money, usage_report
from nbgpu.limit_commands import read_amount, take_idle
from nbgpu.words import closing_in_words
from nbgpu_protocol.v1 import accounting_pb2, pool_pb2

NOW = 1_795_000_000.0


def usage(seconds: float, busy: float | None = None, cost: float | None = None) -> accounting_pb2.Usage:
    return accounting_pb2.Usage(accelerator_seconds=seconds, busy_accelerator_seconds=busy, cost=cost)


def test_a_report_says_what_was_used_the_dearest_cells_the_users_and_the_budgets() -> None:
    cell = accounting_pb2.CellUsage(
        notebook_name="digits.ipynb",
        execution_count=7,
        accelerators="H100 ×8",
        began_unix_s=NOW,
        ended_unix_s=NOW + 92,
        usage=usage(736, 700, 0.43),
    )
    report = accounting_pb2.UsageReport(
        session=usage(744, 372, 0.43),
        today=usage(7200, 0, 4.2),
        month=usage(0),
        top_cells=[cell],
        currency="USD",
        users=[accounting_pb2.UserUsage(user="ada", usage=usage(60)), accounting_pb2.UserUsage(usage=usage(1))],
        allowances=[accounting_pb2.Allowance(of="the budget", amount=20, spent=16.2, unit="USD", per_hour=8.4)],
    )
    lines = usage_report(report).splitlines()
    assert lines[:4] == [
        "              GPU TIME  BUSY  COST",
        "this session  12.4 min  50%   $0.43",
        "today         2.0 h     0%    $4.20",
        "this month    0 s",
    ]
    assert lines[5] == "the cells of this month that cost the most"
    assert lines[7].startswith("[7]   digits.ipynb  H100 ×8      ")
    assert lines[7].endswith("  1:32     95%   $0.43")
    assert [line.split() for line in lines[9:12]] == [
        ["USER,", "THIS", "MONTH", "GPU", "TIME", "BUSY", "COST"],
        ["ada", "1.0", "min"],
        ["yours", "1", "s"],
    ]
    assert lines[-1] == "the budget: $16.20 of $20.00 spent, $8.40 an hour now"


def test_without_prices_nothing_is_said_of_costs() -> None:
    text = usage_report(accounting_pb2.UsageReport(today=usage(5), month=usage(5)))
    assert "COST" not in text
    assert "$" not in text


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [
        (0.43, "USD", "$0.43"),
        (0.0042, "EUR", "€0.0042"),
        (0, "USD", "$0.00"),
        (5, "CHF", "5.00 CHF"),
        (2, "GPU-hours", "2.0 GPU-hours"),
    ],
)
def test_money_is_written_as_it_is_used_to(amount: float, unit: str, text: str) -> None:
    assert money(amount, unit) == text


def test_a_share_of_hours_is_used_rather_than_spent() -> None:
    share = accounting_pb2.Allowance(of="the share", amount=10, spent=2.5, unit="GPU-hours")
    assert allowance_in_words(share) == "the share: 2.5 GPU-hours of 10.0 GPU-hours used"


@pytest.mark.parametrize(("seconds", "text"), [(59, "59 s"), (1890, "31.5 min"), (6480, "1.8 h")])
def test_time_is_said_in_the_unit_that_fits(seconds: float, text: str) -> None:
    assert accelerator_time(seconds) == text


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("H100x8", ("H100x8", None)),
        ("H100x8 --idle 2h --new", ("H100x8 --new", 7200.0)),
        ("--idle=90m", ("", 5400.0)),
        ("H100 --idle off", ("H100", 0.0)),
    ],
)
def test_the_idle_time_is_taken_out_of_a_line(line: str, taken: tuple[str, float | None]) -> None:
    assert take_idle(line) == taken


@pytest.mark.parametrize("line", ["--idle", "--idle soon", "--idle -5m"])
def test_an_idle_time_that_is_none_is_refused(line: str) -> None:
    with pytest.raises(errors.CommandError, match="--idle needs a span of time"):
        take_idle(line)


def test_amounts_are_read_with_and_without_a_sign() -> None:
    assert [read_amount(text) for text in ("20", "$20.5", "off")] == [20.0, 20.5, None]
    with pytest.raises(errors.CommandError, match="'twenty' is no amount"):
        read_amount("twenty")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, ""),
        ({"idle_close_s": 3600}, "closes after 60 min without work"),
        (
            {"idle_close_s": 3600, "closes_unix_s": NOW + 2880, "cause": pool_pb2.Closing.IDLE},
            "closes in 48 min, unless it is used",
        ),
        (
            {"idle_close_s": 3600, "closes_unix_s": NOW + 2880, "cause": pool_pb2.Closing.LIFETIME},
            "closes in 48 min, the longest that this pool keeps one open, or after 60 min without work",
        ),
        ({"closes_unix_s": NOW - 5, "cause": pool_pb2.Closing.BUDGET}, "closes in 1 s, when its budget is spent"),
        ({"closes_unix_s": NOW + 60, "cause": pool_pb2.Closing.LEASE}, "closes in 60 s, when its lease ends"),
    ],
)
def test_when_a_session_closes_is_said(fields: dict[str, float], text: str) -> None:
    assert closing_in_words(pool_pb2.Closing(**fields), NOW) == text  # type: ignore[arg-type]
