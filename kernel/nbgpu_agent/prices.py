"""What accelerators cost their users, as their owner says: prices by type, and costs from them. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.model import Accelerator
from nbgpu_protocol.accelerator_types import canonical_type

PRICES_VARIABLE = "NBGPU_PRICES"
CURRENCY_VARIABLE = "NBGPU_CURRENCY"
DEFAULT_CURRENCY = "USD"
_HOUR_S = 3600.0


@dataclass(frozen=True)
class PriceList:
    """Prices of accelerators by canonical type, each for one of them and an hour."""

    per_hour: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    currency: str = DEFAULT_CURRENCY
    """ISO 4217."""

    def cost_per_hour(self, accelerators: Iterable[Accelerator]) -> float | None:
        """Returns what these cost an hour; None where one has no price, or there are none."""
        prices = [self.per_hour.get(each.type) for each in accelerators]
        known = [price for price in prices if price is not None]
        return sum(known) if known and len(known) == len(prices) else None

    def cost(self, accelerators: Iterable[Accelerator], duration_s: float) -> float | None:
        """Returns what these cost for that long; None as `cost_per_hour`."""
        per_hour = self.cost_per_hour(accelerators)
        return None if per_hour is None else per_hour * max(duration_s, 0.0) / _HOUR_S


def make_price_list(prices: Mapping[str, object], currency: str = DEFAULT_CURRENCY) -> PriceList:
    """Returns the list of what an owner configured, its types made canonical.

    Raises:
        InvalidRequestError: A price is no number from 0 on, or the currency no code of three letters.
    """
    if not re.fullmatch(r"[A-Za-z]{3}", currency):
        raise InvalidRequestError(f"the currency {currency!r} is no code of three letters", "such as USD or EUR")
    per_hour: dict[str, float] = {}
    for name, price in prices.items():
        number = float(price) if isinstance(price, int | float) and not isinstance(price, bool) else math.nan
        if not (math.isfinite(number) and number >= 0):
            raise InvalidRequestError(f"the price of {name} is {price!r}, and must be a number from 0 on", _EXAMPLE)
        per_hour[canonical_type(name)[0]] = number
    return PriceList(MappingProxyType(per_hour), currency.upper())


def parse_prices(text: str, currency: str = DEFAULT_CURRENCY) -> PriceList:
    """Returns the list that `NBGPU_PRICES` names, such as `H100=2.10,A10=0.75`.

    Raises:
        InvalidRequestError: An item is no `TYPE=PRICE`, or as `make_price_list`.
    """
    prices: dict[str, object] = {}
    for item in filter(None, (each.strip() for each in text.split(","))):
        name, equals, price = item.partition("=")
        try:
            prices[name.strip()] = float(price)
        except ValueError:
            equals = ""
        if not equals or not name.strip():
            raise InvalidRequestError(f"{PRICES_VARIABLE}={text}: cannot read {item!r}", _EXAMPLE)
    return make_price_list(prices, currency)


_EXAMPLE = f"write types and prices an hour, as in `{PRICES_VARIABLE}=H100=2.10,A10=0.75`"
