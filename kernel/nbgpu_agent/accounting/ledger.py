"""The ledger on disk: what was used, by whom, in which session and cell. Rows are added, and never changed.

SQLite with its rollback journal: a row that was written survives a kill of the agent and of the machine. All methods
block, and are for one thread at a time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

LEDGER_FILE = "usage.sqlite3"
_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS uses (
  owner TEXT NOT NULL, session_id TEXT NOT NULL, notebook_id TEXT NOT NULL, notebook_name TEXT NOT NULL,
  accelerators TEXT NOT NULL, began_unix_s REAL NOT NULL, ended_unix_s REAL NOT NULL,
  accelerator_s REAL NOT NULL, busy_accelerator_s REAL NOT NULL, cost REAL, currency TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS uses_by_owner ON uses (owner, ended_unix_s);
CREATE TABLE IF NOT EXISTS cells (
  owner TEXT NOT NULL, session_id TEXT NOT NULL, notebook_id TEXT NOT NULL, notebook_name TEXT NOT NULL,
  accelerators TEXT NOT NULL, began_unix_s REAL NOT NULL, ended_unix_s REAL NOT NULL,
  accelerator_s REAL NOT NULL, busy_accelerator_s REAL, cost REAL, currency TEXT NOT NULL,
  execution_count INTEGER, succeeded INTEGER
);
CREATE INDEX IF NOT EXISTS cells_by_owner ON cells (owner, ended_unix_s);
CREATE TABLE IF NOT EXISTS budgets (
  owner TEXT NOT NULL, notebook_id TEXT NOT NULL, amount REAL, set_unix_s REAL NOT NULL
);
"""
_APPEND_ONLY = "\n".join(
    f"CREATE TRIGGER IF NOT EXISTS {table}_{verb.lower()} BEFORE {verb} ON {table}"
    f" BEGIN SELECT RAISE(ABORT, 'rows of the ledger are never changed'); END;"
    for table in ("uses", "cells", "budgets")
    for verb in ("UPDATE", "DELETE")
)


@dataclass(frozen=True)
class Use:
    """A session's accelerators for a while. The fields are the columns of `uses`."""

    owner: str
    session_id: str
    notebook_id: str
    notebook_name: str
    accelerators: str
    """In words, such as "H100 ×8"."""
    began_unix_s: float
    ended_unix_s: float
    accelerator_s: float
    """Leased: seconds times accelerators."""
    busy_accelerator_s: float | None
    """Of these, the part in which they computed; None: unknown, as of a cell that took a moment."""
    cost: float | None
    """By the prices of that time; None: there were none."""
    currency: str


@dataclass(frozen=True)
class CellUse(Use):
    """The same of one cell."""

    execution_count: int | None
    succeeded: bool | None


@dataclass(frozen=True)
class Total:
    """A sum of uses."""

    accelerator_s: float = 0.0
    busy_accelerator_s: float = 0.0
    cost: float | None = None
    """Of what had a price."""

    def plus(self, use: Use | Total) -> Total:
        summed = None if self.cost is None and use.cost is None else (self.cost or 0.0) + (use.cost or 0.0)
        busy_s = self.busy_accelerator_s + (use.busy_accelerator_s or 0.0)
        return Total(self.accelerator_s + use.accelerator_s, busy_s, summed)


class Ledger:
    """The file, made when the first row is written.

    Args:
        path: Of the file; its owner's alone. One that cannot be read is put aside, and said in the log.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def add(self, uses: Sequence[Use], cells: Sequence[CellUse] = ()) -> None:
        """Writes rows, all of them or none.

        Raises:
            sqlite3.Error: They could not be written, as on a full disk.
        """
        connection = self._connected()
        with connection:
            connection.executemany(f"INSERT INTO uses VALUES ({_marks(11)})", [astuple(use) for use in uses])
            connection.executemany(f"INSERT INTO cells VALUES ({_marks(13)})", [astuple(cell) for cell in cells])

    def set_budget(self, owner: str, notebook_id: str, amount: float | None, now_unix_s: float) -> None:
        """Writes what may be spent for a notebook, or by its owner a month if that is empty; None: there is no bound.

        Raises:
            sqlite3.Error: It could not be written.
        """
        connection = self._connected()
        with connection:
            connection.execute("INSERT INTO budgets VALUES (?, ?, ?, ?)", (owner, notebook_id, amount, now_unix_s))

    def budgets(self) -> dict[tuple[str, str], float]:
        """Returns the budgets that are set, by owner and notebook."""
        if not self._path.exists():
            return {}
        rows = self._connected().execute("SELECT owner, notebook_id, amount FROM budgets ORDER BY rowid")
        newest = {(owner, notebook_id): amount for owner, notebook_id, amount in rows}
        return {key: amount for key, amount in newest.items() if amount is not None}

    def total(self, since_unix_s: float = 0.0, **wanted: str) -> Total:
        """Returns the sum of what ended since then.

        Args:
            wanted: Values of columns, such as `owner="ada"`.
        """
        totals = self.totals("''", since_unix_s, **wanted)
        return totals.get("", Total())

    def totals(self, column: str, since_unix_s: float = 0.0, **wanted: str) -> dict[str, Total]:
        """Returns the sums by the values of a column."""
        if not self._path.exists():
            return {}
        where = "".join(f" AND {name} = ?" for name in wanted)
        rows = self._connected().execute(
            f"SELECT {column}, SUM(accelerator_s), SUM(busy_accelerator_s), SUM(cost) FROM uses"
            f" WHERE ended_unix_s >= ?{where} GROUP BY {column}",
            (since_unix_s, *wanted.values()),
        )
        return {key: Total(leased, busy, cost) for key, leased, busy, cost in rows}

    def top_cells(self, owner: str, since_unix_s: float, limit: int) -> list[CellUse]:
        """Returns the owner's cells that cost, or where nothing has a price used, the most since then."""
        if not self._path.exists():
            return []
        rows = self._connected().execute(
            "SELECT * FROM cells WHERE owner = ? AND ended_unix_s >= ?"
            " ORDER BY cost DESC NULLS LAST, accelerator_s DESC LIMIT ?",
            (owner, since_unix_s, limit),
        )
        return [CellUse(*(*row[:-1], None if row[-1] is None else bool(row[-1]))) for row in rows]

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = self._open()
            except sqlite3.DatabaseError as error:
                if isinstance(error, sqlite3.OperationalError):  # a full disk, a lock: the file may be sound
                    raise
                aside = self._path.with_name(f"{self._path.name}.damaged-{os.urandom(4).hex()}")
                self._path.replace(aside)
                logger.error("the ledger of what was used cannot be read and is put aside as %s: %s", aside, error)
                self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found not in (0, _VERSION):
                raise sqlite3.OperationalError(f"{self._path} is of version {found}, and this nbgpu knows {_VERSION}")
            connection.executescript(f"BEGIN; {_TABLES} {_APPEND_ONLY} PRAGMA user_version = {_VERSION}; COMMIT;")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            raise
        return connection


def dearest(cells: Iterable[CellUse], limit: int) -> tuple[CellUse, ...]:
    """Returns the cells that cost, or where nothing has a price used, the most."""
    ranked = sorted(cells, key=lambda cell: (-1.0 if cell.cost is None else cell.cost, cell.accelerator_s))
    return tuple(reversed(ranked[-limit:]))


def _marks(count: int) -> str:
    return ", ".join("?" * count)
