"""`%gpu metrics`: what the accelerators do, as a table; in a terminal a live one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from nbgpu import words
from nbgpu.client.background import run_telling
from nbgpu.live_metrics.readings import Row, live_rows, shown_accelerators

_HISTORY_S = 3.0
"""Long enough for one reading at every interval that is usual."""
_MIB = 1 << 20
_HEADER = ("GPU", "ACCELERATOR", "BUSY", "MEMORY", "POWER", "TEMPERATURE", "PCIE TX / RX", "NOTES")


def metrics_table(rows: Sequence[Row]) -> str:
    """Returns a table with one line for each accelerator; what is unknown is left blank."""
    return words.table(_HEADER, [_line(row) for row in rows]) if rows else "no readings yet"


def show_metrics(output: TextIO | None = None) -> None:
    """Prints the table; in a terminal again and again over itself, until it is interrupted."""
    output = output or sys.stdout
    if not output.isatty():
        output.write(newest_table() + "\n")
        return
    lines = 0

    def show(told: object) -> None:
        nonlocal lines
        text = str(told)
        back = f"\x1b[{lines}F\x1b[J" if lines else ""  # to where the last one began
        output.write(f"{back}{text}\n")
        output.flush()
        lines = text.count("\n") + 1

    with contextlib.suppress(KeyboardInterrupt):
        run_telling(lambda tell: _watch(tell, once=False), show)


def newest_table() -> str:
    """Returns the table of the newest reading."""
    tables: list[object] = []
    run_telling(lambda tell: _watch(tell, once=True), tables.append)
    return str(tables[-1])


async def _watch(tell: Callable[[str], None], *, once: bool) -> None:
    """Tells a table at once, and then with every reading."""
    pool, accelerators = await shown_accelerators()
    newest: dict[str, Row] = {}
    async with contextlib.aclosing(live_rows(pool, accelerators, _HISTORY_S)) as readings:
        async for rows in readings:
            newest |= {row["accelerator_id"]: row for row in rows}
            tell(metrics_table([newest[each.id] for each in accelerators if each.id in newest]))
            if once:
                return


def _line(row: Row) -> tuple[str, ...]:
    notes = [row["throttle_reasons"]] if row["throttle_reasons"] else []
    if row["xid"] is not None:
        notes.append(f"XID {row['xid']}")
    if row["ecc_errors_uncorrected"]:
        notes.append(f"{row['ecc_errors_uncorrected']} uncorrected ECC errors")
    return (
        str(row["index"]),
        row["type"] + (" (simulated)" if row["simulated"] else ""),
        _number(row["utilisation_percent"], "{:.0f}%"),
        _memory(row["memory_used_bytes"], row["memory_total_bytes"]),
        _number(row["power_watts"], "{:.0f} W"),
        _number(row["temperature_celsius"], "{:.0f} °C"),
        _pcie(row["pcie_tx_bytes_per_s"], row["pcie_rx_bytes_per_s"]),
        ", ".join(notes),
    )


def _number(value: float | None, pattern: str) -> str:
    return "" if value is None else pattern.format(value)


def _memory(used: int | None, total: int | None) -> str:
    if used is None:
        return ""
    of = "" if total is None else f" of {total / (_MIB << 10):.0f}"
    return f"{used / (_MIB << 10):.1f}{of} GiB"


def _pcie(sent: float | None, received: float | None) -> str:
    if sent is None and received is None:
        return ""
    return " / ".join("?" if each is None else f"{each / 1e6:.0f}" for each in (sent, received)) + " MB/s"
