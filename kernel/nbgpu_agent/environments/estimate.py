"""How long a build takes, from its plan. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from nbgpu_agent.environments.plan import Action, Estimate, PlannedDistribution

ASSUMED_BYTES_PER_S = 20e6
"""Of downloads, until some were measured: 160 Mbit/s."""
_BASE_S = 0.3
_INSTALL_S = 0.006
"""Of a distribution, from uv's cache: 0.7 s were measured for 106, and 1.4 s for 307."""
_BUILD_S = 30.0
"""Of a distribution from source. A guess: a pure one takes 2 s, one in C++ half an hour."""
FROM_AN_INDEX = (Action.FETCH, Action.SWAP, Action.BUILD)


def estimate(planned: Iterable[PlannedDistribution], bytes_per_s: float | None) -> Estimate:
    """Returns about how long it takes.

    Args:
        bytes_per_s: As measured; None if it never was.
    """
    kept = [each for each in planned if each.action not in (Action.LEAVE_OUT, Action.IMPOSSIBLE)]
    fetched = [each for each in kept if each.action in FROM_AN_INDEX]
    download_bytes = sum(each.size_bytes or 0 for each in fetched)
    rate = bytes_per_s or ASSUMED_BYTES_PER_S
    seconds = (
        _BASE_S
        + _INSTALL_S * len(kept)
        + _BUILD_S * sum(each.action is Action.BUILD for each in kept)
        + download_bytes / rate
    )
    unknown = sum(each.size_bytes is None for each in fetched)
    return Estimate(round(seconds, 1), download_bytes, unknown, rate, bytes_per_s is not None)
