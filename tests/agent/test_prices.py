"""Prices as an owner writes them, and costs from them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.model import Accelerator
from nbgpu_agent.prices import PriceList, make_price_list, parse_prices

H100 = Accelerator("h", 0, "H100", "", 80)
A10 = Accelerator("a", 1, "A10", "", 24)


def test_prices_are_read_by_canonical_type() -> None:
    prices = parse_prices(" h100 = 2.10, NVIDIA A10=0.75,", "eur")
    assert dict(prices.per_hour) == {"H100": 2.10, "A10": 0.75}
    assert prices.currency == "EUR"
    assert dict(parse_prices("").per_hour) == {}
    assert dict(make_price_list({"H100": 2}).per_hour) == {"H100": 2.0}


@pytest.mark.parametrize("text", ["H100", "H100=", "=2", "H100=two", "H100=-1", "H100=nan", "H100=inf"])
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        parse_prices(text)
    assert refused.value.hint == "write types and prices an hour, as in `NBGPU_PRICES=H100=2.10,A10=0.75`"


@pytest.mark.parametrize(("prices", "currency"), [({"H100": "2"}, "USD"), ({"H100": True}, "USD"), ({}, "dollars")])
def test_what_is_configured_wrong_is_refused(prices: Mapping[str, object], currency: str) -> None:
    with pytest.raises(InvalidRequestError):
        make_price_list(prices, currency)


def test_costs_are_of_all_accelerators_or_unknown() -> None:
    prices = make_price_list({"H100": 3600.0})
    assert prices.cost([H100, H100], 1.5) == 3.0
    assert prices.cost([H100], -5.0) == 0.0
    assert prices.cost([H100, A10], 1.0) is None
    assert prices.cost_per_hour([]) is None
    assert PriceList().cost([H100], 10.0) is None
    assert make_price_list({"H100": 0.0}).cost([H100], 10.0) == 0.0
    assert math.isclose(prices.cost_per_hour([H100, H100]) or 0, 7200.0)
