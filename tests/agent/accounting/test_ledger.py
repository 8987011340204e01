"""The ledger on disk."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nbgpu_agent.accounting.ledger import LEDGER_FILE, CellUse, Ledger, Total, Use

USE = Use("ada", "s1", "n1", "digits.ipynb", "H100 ×2", 100.0, 160.0, 120.0, 90.0, 0.07, "USD")
CELL = CellUse("ada", "s1", "n1", "digits.ipynb", "H100 ×2", 100.0, 130.0, 60.0, 50.0, 0.035, "USD", 7, True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / LEDGER_FILE


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = Ledger(path)
    yield ledger
    ledger.close()


def test_nothing_is_made_before_something_is_written(ledger: Ledger, path: Path) -> None:
    assert ledger.total() == Total()
    assert ledger.budgets() == {}
    assert ledger.top_cells("ada", 0.0, 5) == []
    assert not path.exists()


def test_sums_by_owner_session_notebook_and_time(ledger: Ledger, path: Path) -> None:
    other = replace(USE, owner="bob", session_id="s2", notebook_id="n2", ended_unix_s=500.0, cost=None)
    ledger.add([USE, replace(USE, ended_unix_s=300.0), other])
    assert ledger.total(owner="ada") == Total(240.0, 180.0, 0.14)
    assert ledger.total(session_id="s2") == Total(120.0, 90.0, None)
    assert ledger.total(200.0) == Total(240.0, 180.0, 0.07)
    assert ledger.total(owner="ada", notebook_id="n2") == Total()
    assert set(ledger.totals("owner", 400.0)) == {"bob"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_was_written_is_there_for_the_next_agent(ledger: Ledger, path: Path) -> None:
    ledger.add([USE], [CELL])
    ledger.set_budget("ada", "n1", 20.0, 1.0)
    ledger.close()
    again = Ledger(path)
    assert again.total(owner="ada") == Total(120.0, 90.0, 0.07)
    assert again.top_cells("ada", 0.0, 5) == [CELL]
    assert again.budgets() == {("ada", "n1"): 20.0}
    again.close()


def test_what_was_written_survives_a_kill_right_after(path: Path) -> None:
    program = (
        "import os, signal, sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path; from nbgpu_agent.accounting.ledger import *\n"
        "ledger = Ledger(Path(sys.argv[1]))\n"
        "ledger.add([Use('ada', 's', 'n', 'x', 'H100', 0.0, 60.0, 60.0, 0.0, None, '')])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path), *sys.path], check=False, timeout=60)
    assert killed.returncode == -9
    ledger = Ledger(path)
    assert ledger.total().accelerator_s == 60.0
    ledger.close()


@pytest.mark.parametrize("statement", ["UPDATE uses SET cost = 0", "DELETE FROM uses", "DELETE FROM cells"])
def test_rows_are_never_changed(ledger: Ledger, path: Path, statement: str) -> None:
    ledger.add([USE], [CELL])
    with sqlite3.connect(path) as other, pytest.raises(sqlite3.IntegrityError, match="never changed"):
        other.execute(statement)
    other.close()


def test_the_dearest_cells_come_first_and_those_without_a_price_last(ledger: Ledger) -> None:
    dear, cheap = replace(CELL, cost=9.0), replace(CELL, cost=0.1)
    unpriced_long, unpriced = (replace(CELL, cost=None, accelerator_s=seconds) for seconds in (900.0, 1.0))
    ledger.add([], [cheap, unpriced, dear, unpriced_long, replace(dear, owner="bob")])
    assert ledger.top_cells("ada", 0.0, 3) == [dear, cheap, unpriced_long]


def test_the_newest_budget_counts_and_may_be_none(ledger: Ledger) -> None:
    ledger.set_budget("ada", "n1", 20.0, 1.0)
    ledger.set_budget("ada", "", 100.0, 2.0)
    ledger.set_budget("ada", "n1", None, 3.0)
    assert ledger.budgets() == {("ada", ""): 100.0}


def test_a_damaged_file_is_put_aside_and_a_new_one_begun(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(b"no database at all" * 100)
    ledger = Ledger(path)
    ledger.add([USE])
    assert ledger.total() == Total(120.0, 90.0, 0.07)
    ledger.close()
    (aside,) = tmp_path.glob(f"{LEDGER_FILE}.damaged-*")
    assert aside.read_bytes().startswith(b"no database")
    assert "is put aside as" in caplog.text


def test_a_newer_version_is_neither_read_nor_put_aside(ledger: Ledger, path: Path) -> None:
    ledger.add([USE])
    ledger.close()
    with sqlite3.connect(path) as other:
        other.execute("PRAGMA user_version = 99")
    other.close()
    with pytest.raises(sqlite3.OperationalError, match="version 99"):
        Ledger(path).total()
    assert path.exists()
