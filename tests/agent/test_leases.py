"""The ledger: waiting, granting, renewing, expiring."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgpu_agent.errors import BusyError, CanNeverFitError, InvalidRequestError
from nbgpu_agent.leases import LeaseLedger, LeaseRequest
from nbgpu_agent.model import Accelerator, Alternative, Lease, Spec

H100S = [Accelerator(f"h{index}", index, "H100", "H100", 80 * 10**9) for index in range(4)]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def ledger(clock: Callable[[], float] = lambda: 1000.0, duration_s: float | None = None) -> LeaseLedger:
    return LeaseLedger(H100S, duration_s=duration_s, on_change=lambda: None, now=clock)


def h100(count: int) -> Spec:
    return Spec((Alternative("H100", count),), f"H100x{count}")


def test_release_serves_those_who_wait_in_their_order() -> None:
    book = ledger()
    first, second, third = book.request(h100(3)), book.request(h100(2)), book.request(h100(1))
    assert first.lease is not None
    assert (second.lease, third.lease) == (None, None)
    assert book.offers()[0].queued == 2
    book.release(first.lease.id)
    assert second.lease is not None
    assert third.lease is not None
    assert [each.id for each in book.free()] == ["h3"]


def test_withdrawing_one_that_waits_lets_those_behind_pass() -> None:
    book = ledger()
    held = book.request(h100(3))
    big, small = book.request(h100(4)), book.request(h100(1))
    assert small.lease is None
    book.withdraw(big)
    assert small.lease is not None
    book.withdraw(big)
    book.withdraw(held)
    book.withdraw(held)
    assert len(book.free()) == 3


def test_not_to_wait() -> None:
    book = ledger()
    book.request(h100(3))
    with pytest.raises(BusyError, match=r"H100x2 is not free now; offered: H100 \(1 free of 4\)"):
        book.request(h100(2), no_wait=True)
    assert book.offers()[0].queued == 0
    assert book.request(h100(1), no_wait=True).lease is not None


def test_what_can_never_fit_is_not_queued() -> None:
    book = ledger()
    with pytest.raises(CanNeverFitError):
        book.request(h100(5))
    assert book.offers()[0].queued == 0


def test_expiry_and_renewal() -> None:
    clock = Clock()
    book = ledger(clock, duration_s=60)
    lease = book.request(h100(1)).lease
    assert lease is not None
    assert lease.expires_unix_s == 1060
    clock.now = 1059.9
    assert book.expired() == ()
    renewed = book.renew(lease.id)
    assert renewed is not None
    assert renewed.expires_unix_s == pytest.approx(1119.9)
    clock.now = 1060
    assert book.expired() == ()
    book.renew(lease.id, 5)
    clock.now = 1065
    assert [each.id for each in book.expired()] == [lease.id]
    assert book.renew("another") is None


@pytest.mark.parametrize("duration_s", [-1, 0, float("nan"), float("inf")])
def test_no_lease_lasts_for_a_nonsensical_time(duration_s: float) -> None:
    book = ledger()
    lease = book.request(h100(1)).lease
    assert lease is not None
    with pytest.raises(InvalidRequestError):
        book.renew(lease.id, duration_s)


@pytest.mark.asyncio
async def test_places_in_the_queue_are_told_as_they_change() -> None:
    book = ledger()
    held = book.request(h100(4))
    ahead, request = book.request(h100(1)), book.request(h100(4))
    states = request.states()
    first = await anext(states)
    assert (first.position, first.length) == (2, 2)  # type: ignore[union-attr]
    following = asyncio.ensure_future(anext(states))
    book.withdraw(ahead)
    second = await asyncio.wait_for(following, 10)
    assert (second.position, second.length, second.detail) == (1, 1, "waiting for 4 of 4 H100")  # type: ignore[union-attr]
    following = asyncio.ensure_future(anext(states))
    book.withdraw(held)
    assert isinstance(await asyncio.wait_for(following, 10), Lease)
    with pytest.raises(StopAsyncIteration):
        await anext(states)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=40))
def test_nothing_is_held_twice_whatever_happens(steps: list[tuple[bool, int]]) -> None:
    book = ledger()
    requests: list[LeaseRequest] = []
    for ask, number in steps:
        if ask or not requests:
            requests.append(book.request(h100(1 + number % 4)))
        else:
            book.withdraw(requests.pop(number % len(requests)))
        held = [each.id for request in requests if request.lease for each in request.lease.accelerators]
        assert len(held) == len(set(held))
        assert {each.id for each in book.free()} == {each.id for each in H100S} - set(held)
        if requests:
            assert requests[0].lease is not None, "who came first is served"
