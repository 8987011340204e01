"""The accounts: meters every session, writes the ledger, and knows what each user has spent of what they may."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from nbgpu_agent.accounting.allowances import Allowance, Grants, day_began, month_began
from nbgpu_agent.accounting.ledger import CellUse, Ledger, Total, Use, dearest
from nbgpu_agent.accounting.metering import Meter, cell_use
from nbgpu_agent.limits.closing import Deadline
from nbgpu_agent.measuring import Measure
from nbgpu_agent.model import Execution, Sample, SessionInfo
from nbgpu_agent.observing import SessionObserver
from nbgpu_agent.prices import PriceList
from nbgpu_agent.registry import SessionRegistry

logger = logging.getLogger(__name__)
T = TypeVar("T")

ROW_INTERVAL_S = 60.0
"""What is lost at most if the agent is killed."""
_MEASURED_WITHIN_S = 5.0
_MAX_UNWRITTEN = 10_000
HOURS_UNIT = "GPU-hours"


@dataclass
class _Open:
    """What some sessions used since their last rows, and what they use now."""

    total: Total = field(default_factory=Total)
    cost_per_hour: float = 0.0
    held: int = 0

    def add(self, meter: Meter, use: Use | None) -> None:
        self.total = self.total.plus(use) if use is not None else self.total
        self.cost_per_hour += meter.cost_per_hour
        self.held += meter.accelerator_count


@dataclass(frozen=True)
class Report:
    """What was used and spent."""

    session: Total | None
    notebook: Total | None
    today: Total
    month: Total
    top_cells: tuple[CellUse, ...]
    """Of this month."""
    allowances: tuple[Allowance, ...]
    month_by_owner: dict[str, Total]


class Accounts(SessionObserver):
    """For one event loop; the ledger is read and written on a thread of its own.

    Args:
        ledger: Where it is kept.
        registry: Of the sessions.
        prices: Of now.
        grants: What the pool's owner grants each user.
        measure: Says what accelerators did from one time to another.
    """

    def __init__(
        self, ledger: Ledger, registry: SessionRegistry, prices: PriceList, grants: Grants, measure: Measure
    ) -> None:
        self.prices = prices
        self.grants = grants
        self._ledger = ledger
        self._registry = registry
        self._measure = measure
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._meters: dict[str, Meter] = {}
        self._counted: dict[str, Total] = {}
        """By session, before this agent: some may be taken over."""
        self._cells: list[tuple[SessionInfo, Execution]] = []
        self._unwritten: list[Use] = []
        self._in_flight: list[Use] = []
        self._rows_unix_s = registry.now()
        self._budgets: dict[tuple[str, str], float] = {}
        self._month_began_unix_s = month_began(registry.now())
        self._month: dict[str, Total] = {}
        self._notebooks: dict[tuple[str, str], Total] = {}
        self._open: dict[tuple[str, str | None], _Open] = {}
        self._writing: asyncio.Future[None] | None = None
        self._is_failing = False
        registry.observers.append(self)

    async def start(self) -> None:
        """Reads what was spent so far. What cannot be read counts as nothing, and is said in the log."""
        try:
            self._counted = await self._in_thread(lambda: self._ledger.totals("session_id"))
            self._budgets = await self._in_thread(self._ledger.budgets)
            self._month = await self._in_thread(lambda: self._ledger.totals("owner", self._month_began_unix_s))
            for owner, notebook_id in filter(lambda key: key[1], self._budgets):
                await self._load_notebook(owner, notebook_id)
        except sqlite3.Error:
            logger.exception("the ledger of what was used cannot be read")

    async def close(self) -> None:
        """Writes what is not written yet, and closes the ledger."""
        self._take_rows()
        self._take_cells(wait=False)
        while self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing})
        if self._unwritten:
            self._write()
            if self._writing is not None:
                await asyncio.wait({self._writing})
        await self._in_thread(self._ledger.close)
        self._thread.shutdown(wait=False)

    # What it is told

    def session_ready(self, info: SessionInfo) -> None:
        self._meter(info)

    def session_ended(self, info: SessionInfo, reason: str) -> None:
        meter = self._meter(info)
        meter.note(info)
        self._count(meter.take_use(self._registry.now()))
        self._meters.pop(info.id, None)
        self._sum_open()

    def note_execution(self, session_id: str, execution: Execution) -> None:
        """Notes a cell that has ended."""
        self._cells.append((self._registry.get(session_id).info(), execution))

    def note_reading(self, samples: Sequence[Sample]) -> None:
        """Notes what computes. To be called after every reading of the accelerators."""
        of_session: dict[str, list[Sample]] = {}
        for sample in samples:
            if sample.session_id is not None:
                of_session.setdefault(sample.session_id, []).append(sample)
        for session_id, readings in of_session.items():
            if (meter := self._meters.get(session_id)) is not None:
                meter.note_reading([each.utilisation_percent for each in readings], readings[0].time_unix_s)

    def look(self) -> None:
        """Meters all sessions; to be called about once a second."""
        now = self._registry.now()
        began = month_began(now)
        if began != self._month_began_unix_s:
            self._take_rows()
            self._month_began_unix_s, self._month = began, {}
        for session in self._registry.sessions():
            info = session.info()
            if info.lease is not None:
                self._meter(info).note(info)
        self._take_cells(wait=True)
        if now - self._rows_unix_s >= ROW_INTERVAL_S:
            self._take_rows()
        self._sum_open()
        if self._unwritten:
            self._write()

    # What it knows

    @property
    def bounds_spending(self) -> bool:
        """Whether anybody's money or hours are bounded."""
        return bool(self._budgets) or self.grants.bound_spending

    def allowances(self, owner: str, notebook_id: str = "") -> list[Allowance]:
        """Returns what bounds a user, and one of their notebooks, by what they used until the last look."""
        if not self.bounds_spending:
            return []
        limits = self.grants.limits_of(owner)
        mine = self._open.get((owner, None), _Open())
        here = self._open.get((owner, notebook_id), _Open())
        month = self._month.get(owner, Total()).plus(mine.total)
        currency = self.prices.currency
        found = []
        if (amount := self._budgets.get((owner, notebook_id))) is not None and notebook_id:
            total = self._notebooks.get((owner, notebook_id), Total()).plus(here.total)
            of = "the budget of this notebook"
            rate = here.cost_per_hour
            found.append(Allowance("notebook", of, amount, total.cost or 0.0, rate, currency, notebook_id))
        if (amount := self._budgets.get((owner, ""))) is not None:
            of = "your budget of this month"
            found.append(Allowance("own", of, amount, month.cost or 0.0, mine.cost_per_hour, currency))
        if limits.budget is not None:
            of = "the budget of this month that the pool's owner grants"
            found.append(Allowance("granted", of, limits.budget, month.cost or 0.0, mine.cost_per_hour, currency))
        if limits.accelerator_hours is not None:
            of = "the share of this month that the pool's owner grants"
            hours = month.accelerator_s / 3600
            found.append(Allowance("hours", of, limits.accelerator_hours, hours, float(mine.held), HOURS_UNIT))
        return found

    def deadlines(self, info: SessionInfo) -> list[Deadline]:
        """Returns when what a session spends is spent."""
        now = self._registry.now()
        if info.id not in self._meters or not self._meters[info.id].accelerator_count:
            return []
        found = [each.deadline(now) for each in self.allowances(info.request.owner, info.request.notebook_id)]
        return [each for each in found if each is not None]

    async def set_budget(self, owner: str, notebook_id: str, amount: float | None) -> None:
        """Bounds what is spent for a notebook, or in a month if that is empty; None: no longer.

        Raises:
            sqlite3.Error: It cannot be kept.
        """
        now = self._registry.now()
        await self._in_thread(lambda: self._ledger.set_budget(owner, notebook_id, amount, now))
        if amount is None:
            self._budgets.pop((owner, notebook_id), None)
            return
        if notebook_id and (owner, notebook_id) not in self._notebooks:
            await self._load_notebook(owner, notebook_id)
        self._budgets[owner, notebook_id] = amount
        self._sum_open()

    async def report(self, owner: str, session_id: str = "", notebook_id: str = "", *, limit: int = 5) -> Report:
        """Returns what a user's sessions used and spent, what they hold now included.

        Raises:
            sqlite3.Error: The ledger cannot be read.
        """
        self.look()
        self._take_rows()
        self._sum_open()
        if self._unwritten:
            self._write()
        await self._written()
        now = self._registry.now()
        ledger, began = self._ledger, self._month_began_unix_s
        unmeasured = [cell_use(info, cell, None, self.prices) for info, cell in self._cells]
        newest = [row for row in unmeasured if row is not None and row.owner == owner]

        def read() -> Report:
            return Report(
                session=ledger.total(owner=owner, session_id=session_id) if session_id else None,
                notebook=ledger.total(owner=owner, notebook_id=notebook_id) if notebook_id else None,
                today=ledger.total(day_began(now), owner=owner),
                month=ledger.total(began, owner=owner),
                top_cells=dearest([*ledger.top_cells(owner, began, limit), *newest], limit),
                allowances=(),
                month_by_owner=ledger.totals("owner", began),
            )

        return replace(await self._in_thread(read), allowances=tuple(self.allowances(owner, notebook_id)))

    # Rows

    def _meter(self, info: SessionInfo) -> Meter:
        meter = self._meters.get(info.id)
        if meter is None:
            counted = self._counted.pop(info.id, Total())
            meter = self._meters[info.id] = Meter(info, self.prices, counted.accelerator_s)
        return meter

    def _take_rows(self) -> None:
        now = self._rows_unix_s = self._registry.now()
        for meter in self._meters.values():
            self._count(meter.take_use(now))

    def _take_cells(self, *, wait: bool) -> None:
        now = self._registry.now()
        waiting = []
        for info, execution in self._cells:
            assert execution.ended_unix_s is not None
            ids = {each.id for each in execution.accelerators if not each.shared}
            measured = self._measure(ids, execution.started_unix_s, execution.ended_unix_s) if ids else None
            if ids and measured is None and wait and now - execution.ended_unix_s < _MEASURED_WITHIN_S:
                waiting.append((info, execution))
                continue
            mean = measured.mean_utilisation_percent if measured else None
            if (row := cell_use(info, execution, mean, self.prices)) is not None:
                self._unwritten.append(row)
        self._cells = waiting

    def _count(self, use: Use | None) -> None:
        if use is None:
            return
        self._unwritten.append(use)
        self._month[use.owner] = self._month.get(use.owner, Total()).plus(use)
        key = (use.owner, use.notebook_id)
        if key in self._notebooks:
            self._notebooks[key] = self._notebooks[key].plus(use)

    def _sum_open(self) -> None:
        """Sums what is in no row yet, by owner, and by owner and notebook."""
        if not self.bounds_spending:
            return  # nobody asks for it
        now = self._registry.now()
        self._open = {}
        for meter in self._meters.values():
            use = meter.open_use(now)
            for key in ((meter.owner, None), (meter.owner, meter.notebook_id)):
                self._open.setdefault(key, _Open()).add(meter, use)

    async def _load_notebook(self, owner: str, notebook_id: str) -> None:
        await self._written()
        total = await self._in_thread(lambda: self._ledger.total(owner=owner, notebook_id=notebook_id))
        for row in (*self._in_flight, *self._unwritten):  # counted since the ledger was asked
            if (row.owner, row.notebook_id) == (owner, notebook_id) and not isinstance(row, CellUse):
                total = total.plus(row)
        self._notebooks[owner, notebook_id] = total

    def _write(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write_rows())

    async def _written(self) -> None:
        if self._writing is not None:
            await asyncio.wait({self._writing})

    async def _write_rows(self) -> None:
        rows, self._unwritten = self._unwritten, []
        self._in_flight = rows
        cells = [row for row in rows if isinstance(row, CellUse)]
        uses = [row for row in rows if not isinstance(row, CellUse)]
        try:
            await self._in_thread(lambda: self._ledger.add(uses, cells))
            self._is_failing = False
        except (sqlite3.Error, OSError) as error:
            self._unwritten = [*rows, *self._unwritten][-_MAX_UNWRITTEN:]
            if not self._is_failing:  # said once, tried again every second
                logger.error("what was used cannot be written to the ledger, and is kept in memory: %s", error)
            self._is_failing = True
        self._in_flight = []

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
