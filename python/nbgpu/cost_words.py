"""Says what was used and spent: the tables of `%gpu cost` and `nbgpu cost`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from nbgpu.words import duration_in_words, table
from nbgpu_protocol.v1 import accounting_pb2

_SYMBOLS = {"USD": "$", "EUR": "€", "GBP": "£"}


def usage_report(report: accounting_pb2.UsageReport) -> str:
    """Returns what was used by session, notebook, day and month, the cells that cost most, and the budgets."""
    parts = [_usage_table(report)]
    if report.top_cells:
        most = "cost" if report.currency else "used"
        parts.append(f"the cells of this month that {most} the most\n{_cells_table(report)}")
    if any(each.user for each in report.users):
        rows = [(each.user or "yours", *_usage_cells(each.usage, report.currency)) for each in report.users]
        header = ("USER, THIS MONTH", "GPU TIME", "BUSY", "COST" if report.currency else "")
        parts.append(table(header, sorted(rows)))
    if report.allowances:
        parts.append("\n".join(allowance_in_words(each) for each in report.allowances))
    return "\n\n".join(parts)


def allowance_in_words(allowance: accounting_pb2.Allowance) -> str:
    """Returns "the budget of this notebook: $16.20 of $20.00 spent, $8.40 an hour now"."""
    spent, amount = money(allowance.spent, allowance.unit), money(allowance.amount, allowance.unit)
    rate = f", {money(allowance.per_hour, allowance.unit)} an hour now" if allowance.per_hour else ""
    return f"{allowance.of}: {spent} of {amount} {'used' if len(allowance.unit) != 3 else 'spent'}{rate}"


def money(amount: float, unit: str) -> str:
    """Returns "$0.43", "0.43 CHF" or "12.4 GPU-hours"; what is less than a cent and not nothing, with four places."""
    if len(unit) != 3:
        return f"{amount:.1f} {unit}"
    text = f"{amount:.4f}" if 0 < amount < 0.01 else f"{amount:.2f}"
    return f"{_SYMBOLS[unit]}{text}" if unit in _SYMBOLS else f"{text} {unit}"


def _usage_table(report: accounting_pb2.UsageReport) -> str:
    rows = []
    for name, field in (
        ("this session", "session"),
        ("this notebook", "notebook"),
        ("today", "today"),
        ("this month", "month"),
    ):
        if report.HasField(field):
            rows.append((name, *_usage_cells(getattr(report, field), report.currency)))
    return table(("", "GPU TIME", "BUSY", "COST" if report.currency else ""), rows)


def _cells_table(report: accounting_pb2.UsageReport) -> str:
    rows = [
        (
            f"[{cell.execution_count}]" if cell.execution_count else "-",
            cell.notebook_name or "-",
            cell.accelerators,
            datetime.fromtimestamp(cell.began_unix_s).astimezone().strftime("%d %b %H:%M"),
            duration_in_words(cell.ended_unix_s - cell.began_unix_s),
            *_usage_cells(cell.usage, report.currency)[1:],
        )
        for cell in report.top_cells
    ]
    header = ("CELL", "NOTEBOOK", "ACCELERATOR", "BEGAN", "RAN FOR", "BUSY", "COST" if report.currency else "")
    return table(header, rows)


def _usage_cells(usage: accounting_pb2.Usage, currency: str) -> tuple[str, str, str]:
    leased_s = usage.accelerator_seconds
    known = leased_s > 0 and usage.HasField("busy_accelerator_seconds")
    busy = f"{usage.busy_accelerator_seconds / leased_s:.0%}" if known else ""
    return accelerator_time(leased_s), busy, money(usage.cost, currency) if usage.HasField("cost") else ""


def accelerator_time(seconds: float) -> str:
    """Returns "12 s", "31.5 min" or "1.8 h"; of several accelerators the sum."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def budgets_in_words(allowances: Iterable[accounting_pb2.Allowance]) -> str:
    """Returns what may be spent, one a line."""
    lines = [allowance_in_words(each) for each in allowances]
    return "\n".join(lines) or "no budget is set; `%gpu budget 20` sets one for this notebook"
