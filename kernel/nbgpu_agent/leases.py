"""The ledger: who holds which accelerators, and who waits for some. The one place where either changes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace

from nbgpu_agent.errors import BusyError, InvalidRequestError
from nbgpu_agent.model import Accelerator, Lease, Offer, Spec
from nbgpu_agent.placement import Request, Waiting, check_fits, decide, describe_offers, offers, preferred_spec

MAX_DURATION_S = 10 * 365 * 86_400.0


class LeaseRequest:
    """One request in the ledger's queue. Leave it by `LeaseLedger.withdraw`, whatever became of it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.lease: Lease | None = None
        self.waiting: Waiting | None = None
        self._changed = asyncio.Event()

    def tell(self, lease: Lease | None, waiting: Waiting | None) -> None:
        if (lease, waiting) != (self.lease, self.waiting):
            self.lease, self.waiting = lease, waiting
            self._changed.set()

    async def states(self) -> AsyncGenerator[Waiting | Lease, None]:
        """Yields where the request is in the queue, at first and after every change, and last of all its lease."""
        told: Waiting | None = None
        while self.lease is None:
            if self.waiting is not None and self.waiting != told:
                told = self.waiting
                yield told
                continue
            self._changed.clear()
            await self._changed.wait()
        yield self.lease


class LeaseLedger:
    """Grants accelerators to requests as `placement` decides.

    Args:
        accelerators: All of the node's.
        duration_s: After which a lease expires that is not renewed; None: never.
        on_change: Called after every change of what is held, or of who waits.
        now: The time, in seconds since the epoch.
    """

    def __init__(
        self,
        accelerators: Sequence[Accelerator],
        *,
        duration_s: float | None,
        on_change: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self.accelerators = tuple(accelerators)
        self._duration_s = duration_s
        self._on_change = on_change
        self._now = now
        self._leases: dict[str, Lease] = {}
        self._queue: list[LeaseRequest] = []

    def free(self) -> tuple[Accelerator, ...]:
        """Returns what nobody holds; what is shared is always free."""
        held = {each.id for lease in self._leases.values() for each in lease.accelerators if not each.shared}
        return tuple(each for each in self.accelerators if each.id not in held)

    def offers(self) -> tuple[Offer, ...]:
        return offers(self.free(), self.accelerators, [waiting.request.spec for waiting in self._queue])

    def preferred(self) -> Spec:
        """Returns the spec of a session that asks for nothing; it is granted at once."""
        return preferred_spec(self.free())

    def request(self, spec: Spec, *, no_wait: bool = False) -> LeaseRequest:
        """Puts a request at the end of the queue; it may be granted when this returns.

        Raises:
            NoSuchAcceleratorError: The node has no accelerator of any type that was asked for.
            CanNeverFitError: It has the type, but never as many, or as large, as asked.
            BusyError: It would have to wait, and `no_wait` is set.
        """
        check_fits(spec, self.free(), self.accelerators)
        request = LeaseRequest(Request(secrets.token_hex(8), spec))
        self._queue.append(request)
        self._settle()
        if no_wait and request.lease is None:
            self.withdraw(request)
            raise BusyError(
                f"{spec.text or 'what was asked'} is not free now; offered: {describe_offers(self.offers())}",
                "wait for it by leaving out the option not to wait, or ask for something that is free",
            )
        return request

    def adopt(self, lease: Lease) -> None:
        """Takes over a lease that an earlier agent granted.

        Raises:
            InvalidRequestError: Somebody holds one of its accelerators.
        """
        free = {each.id for each in self.free()}
        if taken := [each.id for each in lease.accelerators if not each.shared and each.id not in free]:
            raise InvalidRequestError(f"{', '.join(taken)} is held by another session")
        self._leases[lease.id] = lease
        self._settle()

    def withdraw(self, request: LeaseRequest) -> None:
        """Takes the request out of the queue, or gives back what it was granted. Idempotent."""
        if request in self._queue:
            self._queue.remove(request)
            self._settle()
        if request.lease is not None:
            self.release(request.lease.id)

    def release(self, lease_id: str) -> None:
        """Gives the lease back, and serves those who wait. Idempotent."""
        if self._leases.pop(lease_id, None) is not None:
            self._settle()

    def renew(self, lease_id: str, duration_s: float | None = None) -> Lease | None:
        """Returns the lease, extended from now on; None if it is not held.

        Args:
            lease_id: Which.
            duration_s: None: the ledger's own.

        Raises:
            InvalidRequestError: The duration is no number of seconds from 0 to ten years.
        """
        if duration_s is not None and not 0 < duration_s <= MAX_DURATION_S:
            raise InvalidRequestError(f"a lease lasts more than 0 s and at most ten years, {duration_s} s asked")
        lease = self._leases.get(lease_id)
        if lease is not None:
            duration_s = self._duration_s if duration_s is None else duration_s
            expires = None if duration_s is None else self._now() + duration_s
            lease = self._leases[lease_id] = replace(lease, expires_unix_s=expires)
            self._on_change()
        return lease

    def expired(self) -> tuple[Lease, ...]:
        """Returns the leases whose time is over; they are held until released."""
        now = self._now()
        return tuple(
            lease for lease in self._leases.values() if lease.expires_unix_s is not None and lease.expires_unix_s <= now
        )

    def _settle(self) -> None:
        """Grants what can be granted, and tells those who wait where they are."""
        decision = decide([waiting.request for waiting in self._queue], self.free(), self.accelerators)
        now = self._now()
        for request in list(self._queue):
            grant = decision.grants.get(request.request.id)
            if grant is None:
                request.tell(None, decision.waiting[request.request.id])
                continue
            lease = Lease(
                id=secrets.token_hex(8),
                accelerators=grant.accelerators,
                granted_unix_s=now,
                expires_unix_s=None if self._duration_s is None else now + self._duration_s,
            )
            self._leases[lease.id] = lease
            self._queue.remove(request)
            request.tell(lease, None)
        self._on_change()
