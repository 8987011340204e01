"""Which of several pools a spec goes to: the first that could grant it now, else the first that ever could. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence

from nbgpu.spec import Alternative, Spec
from nbgpu_protocol.accelerator_types import CPU
from nbgpu_protocol.v1 import pool_pb2


class Fit(enum.IntEnum):
    """How well offers meet a spec."""

    NEVER = 0
    LATER = 1
    NOW = 2


def fit(spec: Spec, offers: Iterable[pool_pb2.Offer]) -> Fit:
    """Returns how well the offers meet the spec. Offers promise nothing, and the pool decides."""
    known = list(offers)
    return max((_fit(alternative, known) for alternative in spec.alternatives), default=Fit.NEVER)


def choose_pool(spec: Spec, offers: Mapping[str, Sequence[pool_pb2.Offer]]) -> str | None:
    """Returns the name of the pool to ask; None if no pool could ever grant the spec.

    Args:
        spec: What is wanted.
        offers: What each pool offers, by its name, in the order of preference.
    """
    fits = {name: fit(spec, offered) for name, offered in offers.items()}
    best = max(fits.values(), default=Fit.NEVER)
    return None if best is Fit.NEVER else next(name for name, value in fits.items() if value is best)


def _fit(alternative: Alternative, offers: Sequence[pool_pb2.Offer]) -> Fit:
    matching = [offer for offer in offers if _matches(alternative, offer)]
    if any(offer.shared for offer in matching):
        return Fit.NOW
    best = Fit.NEVER
    for accelerator_type in {offer.type for offer in matching}:
        of_type = [offer for offer in matching if offer.type == accelerator_type]
        if sum(offer.free for offer in of_type) >= alternative.count:
            best = Fit.NOW
        elif sum(offer.total for offer in of_type) >= alternative.count:
            best = max(best, Fit.LATER)
    return best


def _matches(alternative: Alternative, offer: pool_pb2.Offer) -> bool:
    if offer.shared or alternative.type == CPU:
        return offer.shared and alternative.type == offer.type
    # Nominal sizes are in GB, asked ones may be meant in GiB.
    asked = alternative.min_memory_bytes
    whole_gib, rest = divmod(asked, 1 << 30)
    return alternative.type in ("", offer.type) and offer.memory_bytes >= (asked if rest else whole_gib * 10**9)
