"""The form of the two messages about values, a cell's request and the answer to it: neither side trusts the other's.

What does not have it is refused before anything is bound or put together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

_MAX_BYTES = 1 << 62
_SHOWN_CHARACTERS = 100

Check: TypeAlias = Callable[[Any], bool]


class MalformedMessageError(ValueError):
    """Raised when a message about values does not have its form; says which field."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_BYTES


def _each(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _by_name(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(map(_is_text, value)) and all(map(check, value.values()))


def _is_place(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return _is_count(value["inline"]) if "inline" in value else _is_text(value.get("blob"))


def _is_encoded(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _is_count(value.get("pickle"))
        and _each(lambda buffer: _each(_is_count)(buffer) and len(buffer) == 4)(value.get("buffers", []))
    )


def _is_parcel(value: Any) -> bool:
    return _is_encoded(value) and _is_names(value.get("names")) and bool(value["names"])


def _is_definition(value: Any) -> bool:
    return _is_encoded(value) and _is_text(value.get("name"))


def _is_described(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name not in value or check(value[name])
        for name, check in (
            ("type", _is_text), ("dtype", _is_text), ("device", _is_text), ("shape", _each(_is_count)),
            ("size_bytes", _is_count),
        )
    )  # fmt: skip


def _is_handle(value: Any) -> bool:
    return _is_described(value) and _is_text(value.get("id")) and "type" in value


def _is_left(value: Any) -> bool:
    return _is_described(value) and _is_text(value.get("why"))


_is_names = _each(_is_text)
_is_texts = _by_name(_is_text)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


_CARRIED: dict[str, Check] = {
    "parcels": _each(_is_parcel), "definitions": _by_name(_is_definition), "places": _each(_is_place),
    "tokens": _is_texts, "plain": _is_flag,
}  # fmt: skip
_REQUEST: dict[str, Check] = {
    **_CARRIED,
    "modules": _by_name(lambda value: _is_names(value) and bool(value)),
    "notebook": _is_text, "known": _is_texts, "limit_bytes": _is_count, "outputs": _is_names, "certain": _is_names,
    "lacks": _is_names, "force": _is_names, "fetch": _is_names, "by_handle": _is_names, "watched": _is_names,
    "mutated": _is_names, "release": _is_names,
}  # fmt: skip
_ANSWER: dict[str, Check] = {
    **_CARRIED,
    "modules": _is_texts, "python": _each(_is_count), "in_place": _is_names, "left": _by_name(_is_left),
    "handles": _by_name(_is_handle), "refused": _is_texts,
}  # fmt: skip
_BOUND: dict[str, Check] = {
    "overwritten": _is_names,
    "separated": _each(lambda pair: _is_names(pair) and len(pair) == 2),
}
_REFUSED: dict[str, Check] = {"name": _is_text, "ename": _is_text, "evalue": _is_text}


def check_request(message: Any, buffer_count: int) -> Any:
    """Returns what goes with a cell to its session, if it has the form; fields may be missing.

    Raises:
        MalformedMessageError: It has not.
    """
    _check(message, {name: check for name, check in _REQUEST.items() if name in _keys(message)})
    _check_parts(message, buffer_count)
    carried = {name for parcel in message.get("parcels", ()) for name in parcel["names"]} | set(
        message.get("modules", ())
    )
    if carried != set(message.get("tokens", ())):
        raise MalformedMessageError("`tokens` is not of what is carried")
    return message


def check_answer(message: Any, buffer_count: int) -> Any:
    """Returns what came back from a session, if it has the form.

    Raises:
        MalformedMessageError: It has not.
    """
    _check(message, _ANSWER)
    _check_parts(message, buffer_count)
    if any("blob" in place and not _is_count(place.get("bytes")) for place in message["places"]):
        raise MalformedMessageError("a part in `places` has no size")
    return message


def check_reply(message: Any) -> Any:
    """Returns what a session says of a request, if it has the form.

    Raises:
        MalformedMessageError: It has not.
    """
    _check(message, {"bound": _is_flag})
    _check(message, _BOUND if message["bound"] else {"stale": _is_names} if "stale" in message else _REFUSED)
    return message


def _keys(message: Any) -> Mapping[str, Any]:
    return message if isinstance(message, dict) else {}


def _check(message: Any, checks: Mapping[str, Check]) -> None:
    if not isinstance(message, dict):
        raise MalformedMessageError(f"it is a {type(message).__name__}")
    for name, check in checks.items():
        if name not in message:
            raise MalformedMessageError(f"it has no `{name}`")
        if not check(message[name]):
            raise MalformedMessageError(f"`{name}` is {repr(message[name])[:_SHOWN_CHARACTERS]}")


def _check_parts(message: Mapping[str, Any], buffer_count: int) -> None:
    places = message.get("places", [])
    if any(place.get("inline", 0) >= buffer_count for place in places if "inline" in place):
        raise MalformedMessageError(f"`places` names more than the {buffer_count} buffers that came")
    for encoded in (*message.get("parcels", ()), *message.get("definitions", {}).values()):
        parts = [encoded["pickle"], *(buffer[0] for buffer in encoded.get("buffers", ()))]
        if max(parts) >= len(places):
            raise MalformedMessageError(f"part {max(parts)} is referred to, and there are {len(places)}")
