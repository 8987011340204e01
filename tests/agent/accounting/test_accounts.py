"""Accounts and budgets of sessions that have no kernel, by a clock of the test's own, with a ledger on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from fakes.session import FakeKernels, FakeSession
from nbgpu_agent.accounting.accounts import Accounts
from nbgpu_agent.accounting.allowances import Grants, UserLimits
from nbgpu_agent.accounting.ledger import LEDGER_FILE, Ledger
from nbgpu_agent.errors import LimitReachedError
from nbgpu_agent.limits.spending import SpendingKeeper
from nbgpu_agent.measuring import Measurement
from nbgpu_agent.model import (
    Accelerator,
    Alternative,
    ClosingCause,
    Execution,
    Phase,
    Sample,
    SessionRequest,
    Spec,
)
from nbgpu_agent.prices import make_price_list
from nbgpu_agent.registry import SessionRegistry

pytestmark = pytest.mark.asyncio

GPUS = [Accelerator(f"h{index}", index, "H100", "H100", 80 * 10**9) for index in range(4)]
CPU = Accelerator("cpu", 0, "CPU", "CPU", 0, shared=True)
OWNER = ""
NOON = 1_795_000_000.0
DEADLINE_S = 60


class Place:
    """A registry, its accounts and the clock of both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = NOON
        self.begin()

    def begin(self, grants: Grants | None = None) -> None:
        """Makes an agent's parts anew, on the same folder."""
        self.kernels = FakeKernels(now=lambda: self.now)
        made: Any = self.kernels.make
        self.registry = SessionRegistry([*GPUS, CPU], made, now=lambda: self.now)
        prices = make_price_list({"H100": 3.6})
        self.accounts = Accounts(
            Ledger(self.folder / LEDGER_FILE),
            self.registry,
            prices,
            grants or Grants(),
            lambda *_: Measurement(80.0, 1),
        )
        self.spending = SpendingKeeper(self.registry, self.accounts, grace_s=60.0)

    async def end(self) -> None:
        await self.registry.close_all("the test ended")
        await self.accounts.close()

    async def restart(self) -> None:
        await self.end()
        self.begin()
        await self.accounts.start()

    async def open(self, count: int, notebook: str = "n1") -> FakeSession:
        alternative = Alternative("H100", count) if count else Alternative("CPU", 1)
        request = SessionRequest(Spec((alternative,), "x"), notebook_id=notebook, notebook_name=f"{notebook}.ipynb")
        updates = [update async for update in self.registry.open(request)]
        assert updates[-1].phase is Phase.READY
        return self.kernels.sessions[-1]

    def advance(self, seconds: float) -> None:
        """Lets time go by, and what looks once a second look."""
        self.now += seconds
        self.accounts.look()
        self.spending.look()

    def read(self, percents: dict[str, float], session: FakeSession) -> None:
        self.accounts.note_reading(
            [
                Sample(name, self.now, simulated=False, utilisation_percent=percent, session_id=session.id)
                for name, percent in percents.items()
            ]
        )


@pytest_asyncio.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Place, None]:
    place = Place(tmp_path)
    await place.accounts.start()
    yield place
    await place.end()


async def until(condition: Callable[[], object]) -> None:
    async def poll() -> None:
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), DEADLINE_S)


async def test_what_is_held_costs_whether_it_computes_or_not(place: Place) -> None:
    session = await place.open(2)
    place.read({"h0": 0.0, "h1": 0.0}, session)
    place.advance(2)
    place.read({"h0": 50.0, "h1": 100.0}, session)
    place.advance(98)
    report = await place.accounts.report(OWNER, session.id, "n1")
    assert report.session is not None
    assert report.session.accelerator_s == pytest.approx(200.0)
    assert report.session.busy_accelerator_s == pytest.approx(3.0)
    assert report.session.cost == pytest.approx(0.2)
    assert report.session == report.notebook == report.today == report.month


async def test_the_end_of_a_session_counts_to_the_last_second_and_outlives_the_agent(place: Place) -> None:
    session = await place.open(1)
    place.now += 1.5  # nobody looked
    await place.registry.close(session.id, "done")
    await place.restart()
    report = await place.accounts.report(OWNER, session.id)
    assert report.session is not None
    assert report.session.accelerator_s == pytest.approx(1.5)
    assert report.month.cost == pytest.approx(0.0015)


async def test_a_kill_costs_a_minute_of_the_accounts_at_most(place: Place) -> None:
    await place.open(1)
    for _ in range(10):
        place.advance(31)
        await until(lambda: place.accounts._writing is None or place.accounts._writing.done())
    killed = Ledger(place.folder / LEDGER_FILE)
    assert killed.total().accelerator_s >= 310 - 62
    killed.close()


async def test_the_cpu_costs_nothing(place: Place) -> None:
    await place.open(0)
    place.advance(1000)
    report = await place.accounts.report(OWNER)
    assert (report.month.accelerator_s, report.month.cost) == (0.0, None)
    assert not (place.folder / LEDGER_FILE).exists()


async def test_a_cell_is_remembered_with_what_it_cost(place: Place) -> None:
    session = await place.open(2)
    place.now += 10
    for count, began in ((1, 8.0), (2, 2.0)):
        place.accounts.note_execution(
            session.id,
            Execution("r", count, NOON + began, ended_unix_s=NOON + 10, succeeded=True, accelerators=tuple(GPUS[:2])),
        )
    place.advance(1)
    report = await place.accounts.report(OWNER)
    assert [(cell.execution_count, cell.cost) for cell in report.top_cells] == [
        (2, pytest.approx(0.016)),
        (1, pytest.approx(0.004)),
    ]
    assert report.top_cells[0].busy_accelerator_s == pytest.approx(16 * 0.8)
    assert report.top_cells[0].accelerators == "H100 ×2"


async def test_a_new_month_begins_at_nothing(place: Place) -> None:
    await place.open(1)
    place.advance(3600)
    place.advance(32 * 86_400)
    report = await place.accounts.report(OWNER)
    before = report.month.accelerator_s
    place.advance(32 * 86_400)
    after = (await place.accounts.report(OWNER)).month.accelerator_s
    assert after <= 32 * 86_400 + 1 < before + after


async def test_a_budget_warns_at_80_percent_interrupts_at_100_and_closes_after_the_grace(place: Place) -> None:
    session = await place.open(2)  # 7.20 an hour
    other = await place.open(1, "n2")
    await place.accounts.set_budget(OWNER, "n1", 2.0)
    place.advance(700)
    assert session.told == []
    (deadline,) = place.accounts.deadlines(session.info())
    assert (deadline.cause, deadline.unix_s) == (ClosingCause.BUDGET, NOON + 1000)
    place.advance(100)
    place.advance(1)
    (warning,) = session.told
    assert warning.startswith(
        "the budget of this notebook, 2.00 USD, is used up to 80% (1.60 USD), and at this rate over in"
    )
    assert "`%gpu budget 4` allows more" in warning
    session.executing = Execution("r", 1, place.now)
    place.advance(199)
    assert "is spent: the session is closed in 60 s" in session.told[1]
    await until(lambda: session.interrupts)
    place.advance(59)
    assert not place.registry.is_closing(session.id)
    place.advance(1)
    await until(lambda: session.closed_because)
    assert session.closed_because == "the budget of this notebook, 2.00 USD, is spent"
    assert session.interrupts == 1
    assert other.closed_because is None
    with pytest.raises(LimitReachedError, match="is spent"):
        await place.open(1)
    await place.accounts.set_budget(OWNER, "n1", 4.0)
    await place.open(1)


async def test_more_budget_within_the_grace_saves_the_session(place: Place) -> None:
    session = await place.open(1)
    await place.accounts.set_budget(OWNER, "n1", 1.0)
    place.advance(1000)
    assert "is spent" in session.told[-1]
    await place.accounts.set_budget(OWNER, "n1", None)
    place.advance(1000)
    assert session.closed_because is None
    assert not place.registry.is_closing(session.id)


async def test_budgets_and_what_was_spent_of_them_outlive_the_agent(place: Place) -> None:
    await place.open(1)
    place.advance(500)
    await place.accounts.set_budget(OWNER, "n1", 1.0)
    await place.accounts.set_budget(OWNER, "", 50.0)
    await place.restart()
    notebook, own = place.accounts.allowances(OWNER, "n1")
    assert (notebook.key, notebook.amount, notebook.spent) == ("notebook", 1.0, pytest.approx(0.5))
    assert (own.key, own.amount, own.spent) == ("own", 50.0, pytest.approx(0.5))


async def test_a_share_of_gpu_hours_bounds_a_user_without_prices_too(place: Place) -> None:
    await place.end()
    place.begin(Grants(UserLimits(accelerator_hours=1.0)))
    session = await place.open(4)
    place.advance(15 * 60)
    assert "the share of this month that the pool's owner grants, 1.0 GPU-hours, is spent" in session.told[-1]
    assert "ask the pool's owner for more" in session.told[-1]


async def test_a_full_disk_is_said_once_and_what_was_used_is_written_later(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    session = await place.open(1)
    (place.folder / LEDGER_FILE).mkdir()  # no file can be there
    for _ in range(3):
        place.advance(61)
        await until(lambda: place.accounts._writing is not None and place.accounts._writing.done())
    assert caplog.text.count("cannot be written to the ledger") == 1
    (place.folder / LEDGER_FILE).rmdir()
    report = await place.accounts.report(OWNER, session.id)
    assert report.session is not None
    assert report.session.accelerator_s == pytest.approx(183.0)
