"""Placement, on accelerators and queues of every shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbgpu_agent.errors import CanNeverFitError, NoSuchAcceleratorError
from nbgpu_agent.model import Accelerator, Alternative, Spec
from nbgpu_agent.placement import (
    Request,
    check_fits,
    decide,
    describe_offers,
    matches,
    offers,
    place,
    preferred_spec,
    satisfies,
)

GB = 10**9
CPU = Accelerator("cpu", 0, "CPU", "CPU", 0, shared=True)


def gpus(accelerator_type: str, count: int, memory_gb: int = 80, start: int = 0) -> list[Accelerator]:
    return [
        Accelerator(f"{accelerator_type}-{memory_gb}-{index}", index, accelerator_type, "product", memory_gb * GB)
        for index in range(start, start + count)
    ]


def spec(*alternatives: tuple[str, int] | Alternative) -> Spec:
    parsed = tuple(each if isinstance(each, Alternative) else Alternative(*each) for each in alternatives)
    return Spec(parsed, "as written")


def ids(grant: object) -> list[str]:
    return [each.id for each in grant.accelerators]  # type: ignore[attr-defined]


accelerators = st.builds(
    lambda h100, a10, small, large: [
        *gpus("H100", h100),
        *gpus("A10", a10, 24, h100),
        *gpus("A100", small, 40, h100 + a10),
        *gpus("A100", large, 80, h100 + a10 + small),
        CPU,
    ],
    *[st.integers(0, 5)] * 4,
)
alternatives = st.builds(
    Alternative,
    st.sampled_from(["H100", "A10", "A100", "", "CPU", "T4"]),
    st.integers(1, 6),
    st.sampled_from([0, 24 * GB, 80 * GB]),
).map(lambda each: replace(each, count=1) if each.type == "CPU" else each)
specs = st.lists(alternatives, min_size=1, max_size=3).map(lambda each: Spec(tuple(each), "spec"))


def can_ever_fit(wanted: Spec, everything: list[Accelerator]) -> bool:
    """Says the same as the code under test, in the simplest way."""
    return any(
        sum(matches(alternative, each) for each in everything if each.type == kind) >= alternative.count
        for alternative in wanted.alternatives
        for kind in {each.type for each in everything}
    )


@st.composite
def queues(draw: st.DrawFn) -> tuple[list[Accelerator], list[Accelerator], list[Request]]:
    everything = draw(accelerators)
    free = [each for each in everything if each.shared or draw(st.booleans())]
    wanted = [each for each in draw(st.lists(specs, max_size=6)) if can_ever_fit(each, everything)]
    return everything, free, [Request(str(number), each) for number, each in enumerate(wanted)]


@given(queues())
def test_nothing_is_granted_twice_and_all_or_nothing(
    case: tuple[list[Accelerator], list[Accelerator], list[Request]],
) -> None:
    everything, free, queue = case
    decision = decide(queue, free, everything)
    granted = [each.id for grant in decision.grants.values() for each in grant.accelerators if not each.shared]
    assert len(granted) == len(set(granted))
    assert set(granted) <= {each.id for each in free}
    for request in queue:
        assert (request.id in decision.grants) != (request.id in decision.waiting)
    for key, grant in decision.grants.items():
        assert grant.alternative in queue[int(key)].spec.alternatives
        assert satisfies(queue[int(key)].spec, grant.accelerators)
        assert len({each.type for each in grant.accelerators}) == 1


@given(queues())
def test_nobody_gets_what_one_who_came_earlier_waits_for(
    case: tuple[list[Accelerator], list[Accelerator], list[Request]],
) -> None:
    everything, free, queue = case
    decision = decide(queue, free, everything)
    for late in queue:
        for early in queue[: int(late.id)]:
            if early.id in decision.waiting and late.id in decision.grants:
                taken = [each for each in decision.grants[late.id].accelerators if not each.shared]
                usable = [
                    alternative
                    for alternative in early.spec.alternatives
                    if can_ever_fit(Spec((alternative,), ""), everything)
                ]
                # It may take a type of which the earlier one could never have enough.
                assert not [
                    each
                    for each in taken
                    for alternative in usable
                    if matches(alternative, each)
                    and sum(matches(alternative, other) for other in everything if other.type == each.type)
                    >= alternative.count
                ]


@given(queues())
def test_everybody_is_served_in_the_end(case: tuple[list[Accelerator], list[Accelerator], list[Request]]) -> None:
    everything, _, queue = case
    left, rounds = list(queue), 0
    while left:
        decision = decide(left, everything, everything)  # all that was held has been given back
        assert left[0].id in decision.grants, "the first in the queue gets its share as soon as all is free"
        left = [request for request in left if request.id not in decision.grants]
        rounds += 1
    assert rounds <= len(queue)


@given(queues())
def test_who_waits_could_not_be_served(case: tuple[list[Accelerator], list[Accelerator], list[Request]]) -> None:
    everything, free, queue = case
    decision = decide(queue, free, everything)
    if queue and queue[0].id in decision.waiting:
        assert place(queue[0].spec, free, everything) is None
        assert decision.waiting[queue[0].id].position == 1
    for waiting in decision.waiting.values():
        assert 1 <= waiting.position <= waiting.length <= len(decision.waiting)
        assert waiting.detail.startswith("waiting for ")


@given(specs, accelerators)
def test_what_can_never_fit_is_refused_and_the_rest_is_not(wanted: Spec, everything: list[Accelerator]) -> None:
    if can_ever_fit(wanted, everything):
        check_fits(wanted, [], everything)
        assert place(wanted, everything, everything) is not None
    else:
        with pytest.raises((NoSuchAcceleratorError, CanNeverFitError)):
            check_fits(wanted, [], everything)


def test_a_large_request_is_not_starved_and_others_pass() -> None:
    everything = [*gpus("H100", 4), *gpus("A10", 2, 24, 4), CPU]
    queue = [Request("big", spec(("H100", 4))), Request("small", spec(("H100", 1))), Request("a10", spec(("A10", 1)))]
    queue.append(Request("cpu", spec(("CPU", 1))))
    decision = decide(queue, everything[1:], everything)
    assert set(decision.grants) == {"a10", "cpu"}
    assert decision.waiting["big"].detail == "waiting for 1 of 4 H100"
    assert (decision.waiting["big"].position, decision.waiting["big"].length) == (1, 2)
    assert (decision.waiting["small"].position, decision.waiting["small"].length) == (2, 2)


def test_the_first_alternative_that_is_free_is_granted() -> None:
    everything = [*gpus("H100", 2), *gpus("A10", 2, 24, 2)]
    grant = place(spec(("T4", 1), ("H100", 2), ("A10", 2)), everything[1:], everything)
    assert grant is not None
    assert ids(grant) == ["A10-24-2", "A10-24-3"]


def test_neighbours_are_preferred() -> None:
    everything = gpus("H100", 8)
    free = [everything[index] for index in (0, 2, 3, 5, 6, 7)]
    assert ids(place(spec(("H100", 2)), free, everything)) == ["H100-80-2", "H100-80-3"]
    assert ids(place(spec(("H100", 3)), free, everything)) == ["H100-80-5", "H100-80-6", "H100-80-7"]
    assert ids(place(spec(("H100", 1)), free, everything)) == ["H100-80-0"]


def test_any_takes_the_smallest_that_is_enough() -> None:
    everything = [*gpus("H100", 2), *gpus("A10", 2, 24, 2), *gpus("A100", 2, 40, 4), CPU]
    assert ids(place(spec(("", 1)), everything, everything)) == ["A10-24-2"]
    assert ids(place(spec(Alternative("", 2, 25 * GB)), everything, everything)) == ["A100-40-4", "A100-40-5"]


def test_one_size_is_preferred_to_a_mixture() -> None:
    everything = [*gpus("A100", 1, 40), *gpus("A100", 2, 80, 1)]
    assert ids(place(spec(("A100", 2)), everything, everything)) == ["A100-80-1", "A100-80-2"]
    assert len(ids(place(spec(("A100", 3)), everything, everything))) == 3


@pytest.mark.parametrize("unit", [GB, 2**30])
def test_memory_may_be_meant_in_gb_or_gib(unit: int) -> None:
    assert matches(Alternative("", 1, 24 * unit), gpus("A10", 1, 24)[0])
    assert matches(Alternative("H100", 1, 80 * unit), gpus("H100", 1)[0])
    assert not matches(Alternative("", 1, 40 * unit), gpus("A10", 1, 24)[0])
    assert not matches(Alternative("A100", 1, 80 * unit), gpus("A100", 1, 40)[0])


def refusal(wanted: Spec, free: list[Accelerator], everything: list[Accelerator]) -> str:
    with pytest.raises((NoSuchAcceleratorError, CanNeverFitError)) as caught:
        check_fits(wanted, free, everything)
    return caught.value.message


def test_refusals_say_what_there_is() -> None:
    a10 = [*gpus("A10", 2, 24), CPU]
    assert refusal(spec(("H100", 1)), a10, a10) == "no H100 here; offered: A10 (2 free of 2), CPU"
    assert refusal(spec(("H100", 1), ("T4", 1)), a10[1:], a10) == (
        "no H100 or T4 here; offered: A10 (1 free of 2), CPU"
    )
    four = [*gpus("H100", 4), CPU]
    assert refusal(spec(("H100", 8)), four, four) == "8 H100 asked, this node has 4 H100"
    assert refusal(spec(Alternative("H100", 1, 141 * GB)), four, four) == (
        "1 H100 of 141 GB or more asked, this node has H100 of 80 GB at most"
    )
    assert refusal(spec(("", 1)), [CPU], [CPU]) == "no GPU here; offered: CPU"


def test_offers_are_by_type_and_memory() -> None:
    everything = [*gpus("A100", 2, 40), replace(gpus("A100", 1, 80, 2)[0], simulated=True), CPU]
    offered = offers(everything[1:], everything, [spec(("A100", 2)), spec(("", 1)), spec(("CPU", 1))])
    assert [(each.memory_bytes // GB, each.free, each.total, each.queued) for each in offered] == [
        (40, 1, 2, 2),
        (80, 1, 1, 2),
        (0, 1, 1, 1),
    ]
    assert describe_offers(offered) == "A100-40GB (1 free of 2), simulated A100-80GB (1 free of 1), CPU"


def test_without_a_wish_the_largest_free_gpu_else_the_cpu() -> None:
    everything = [*gpus("A10", 2, 24), *gpus("H100", 2, 80, 2), CPU]
    assert preferred_spec(everything).text == "H100|CPU"
    assert preferred_spec([everything[0], CPU]).text == "A10|CPU"
    assert preferred_spec([CPU]).text == "CPU"
