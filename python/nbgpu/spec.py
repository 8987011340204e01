"""Reads what the user asks for: `H100x8`, `8xH100`, `GPU_8xH100`, `A100-80GB`, `24GB+`, `any`, `CPU`, `A|B`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from nbgpu.errors import SpecError
from nbgpu_protocol.accelerator_types import CPU, NOMINAL_MEMORY_GB, canonical_type
from nbgpu_protocol.v1 import pool_pb2

_GB = 10**9
_MAX_COUNT = 4096

_COUNT_FIRST = re.compile(r"(?P<count>[0-9]+)\s*[x×*]\s*(?P<name>.*)", re.IGNORECASE)
_NAME = re.compile(r"[A-Z][A-Z0-9 _.\-]*", re.IGNORECASE)
_AT_LEAST = re.compile(r"(?P<memory>[0-9]+)\s*G(?:I?B)?\s*\+", re.IGNORECASE)


@dataclass(frozen=True)
class Alternative:
    """One way to meet a spec."""

    type: str
    """Canonical; empty for any GPU."""
    count: int
    min_memory_bytes: int = 0
    """Of each accelerator; 0 for no matter."""


@dataclass(frozen=True)
class Spec:
    """What the user asks for, parsed: alternatives in order of preference."""

    alternatives: tuple[Alternative, ...]
    text: str
    """As the person wrote it."""

    def to_message(self) -> pool_pb2.Spec:
        """Returns the spec as the protocol has it."""
        return pool_pb2.Spec(
            alternatives=[
                pool_pb2.Alternative(type=each.type, count=each.count, min_memory_bytes=each.min_memory_bytes)
                for each in self.alternatives
            ],
            text=self.text,
        )

    def is_met_by(self, accelerators: Iterable[pool_pb2.Accelerator]) -> bool:
        """Returns whether exactly these accelerators are what one of the alternatives asks for."""
        held = list(accelerators)
        return any(_is_met(alternative, held) for alternative in self.alternatives)


def _is_met(alternative: Alternative, held: list[pool_pb2.Accelerator]) -> bool:
    return len(held) == alternative.count and all(
        (each.type == alternative.type if alternative.type else each.type != CPU)
        and each.memory_bytes >= alternative.min_memory_bytes
        for each in held
    )


def parse_spec(text: str) -> Spec:
    """Reads a spec, without regard to case.

    Raises:
        SpecError: It cannot be read; the error points at the place.
    """
    if not text.strip():
        raise SpecError(text, 0, "it is empty")
    alternatives = []
    start = 0
    for piece in text.split("|"):
        offset = start + len(piece) - len(piece.lstrip())
        alternatives.append(_parse_alternative(text, piece.strip(), offset))
        start += len(piece) + 1
    return Spec(tuple(alternatives), text.strip())


def _parse_alternative(text: str, piece: str, offset: int) -> Alternative:
    if not piece:
        raise SpecError(text, offset, "an alternative is missing here")
    name, count, name_offset = _split_count(text, piece, offset)
    if not name:
        raise SpecError(text, offset, "a type is missing")
    if at_least := _AT_LEAST.fullmatch(name):
        return Alternative("", count, int(at_least.group("memory")) * _GB)
    if name.upper() in ("ANY", "GPU"):
        return Alternative("", count)
    if not _NAME.fullmatch(name):
        matched = _NAME.match(name)
        raise SpecError(text, name_offset + (matched.end() if matched else 0), "a type's name does not go on like this")
    type_name, memory_gb = canonical_type(name)
    if not type_name:
        raise SpecError(text, name_offset, "this names no type (for a least memory write 24GB+)")
    if type_name == CPU and count != 1:
        raise SpecError(text, name_offset, "CPU is shared by all and has no count")
    return Alternative(type_name, count, (memory_gb or 0) * _GB)


def _split_count(text: str, piece: str, offset: int) -> tuple[str, int, int]:
    """Returns name, count, and where in the text the name starts."""
    if prefixed := re.match(r"GPU[_ ](?=[0-9]+\s*[x×*])", piece, re.IGNORECASE):
        piece, offset = piece[prefixed.end() :], offset + prefixed.end()
    if first := _COUNT_FIRST.fullmatch(piece):
        return first.group("name"), _count(text, first.group("count"), offset), offset + first.start("name")
    if canonical_type(piece)[0] in NOMINAL_MEMORY_GB:
        return piece, 1, offset  # the x of RTX4090 and of MI300X is no "times"
    last = _last_count(piece)
    if last is None:
        return piece, 1, offset
    return last.group("name").rstrip(), _count(text, last.group("count"), offset + last.start("count")), offset


def _last_count(piece: str) -> re.Match[str] | None:
    """Returns the match at the last mark of a count, if there is one."""
    marks = [found.start() for found in re.finditer(r"[:x×*]", piece, re.IGNORECASE)]
    for position in reversed(marks):
        found = re.compile(rf"(?P<name>.{{{position}}})(?P<mark>[:x×*])\s*(?P<count>.*)", re.IGNORECASE).fullmatch(
            piece
        )
        if found is None:
            continue
        letters = re.fullmatch(r"(R|G)T", found.group("name"), re.IGNORECASE)
        counted = found.group("count").strip().isdecimal()
        if letters or (found.group("mark") in "xX" and not counted and not _looks_counted(found)):
            continue
        return found
    return None


def _looks_counted(found: re.Match[str]) -> bool:
    """Whether an x after a known type was meant as "times", although no number follows."""
    return canonical_type(found.group("name"))[0] in NOMINAL_MEMORY_GB


def _count(text: str, digits: str, position: int) -> int:
    number = re.match(r"[0-9]*", digits)
    end = number.end() if number else 0
    if end == 0 or digits[end:].strip():
        raise SpecError(text, position + end, "a count is expected here, such as H100x8")
    count = int(digits)
    if not 1 <= count <= _MAX_COUNT:
        raise SpecError(text, position, f"a count is between 1 and {_MAX_COUNT}")
    return count


def complete_spec(prefix: str, offers: Iterable[pool_pb2.Offer]) -> list[str]:
    """Returns the specs that start with the prefix's last alternative, of what is offered, most useful first."""
    before, bar, last = prefix.rpartition("|")
    candidates: list[str] = []
    for offer in offers:
        counts = [1, *(2**power for power in range(1, 8) if 2**power < offer.total), offer.total]
        for count in sorted(set(counts if not offer.shared else [1])):
            candidates.append(offer.type if count == 1 else f"{offer.type}x{count}")
    candidates.append("any")
    matching = [each for each in candidates if each.lower().startswith(last.strip().lower())]
    return [before + bar + each for each in dict.fromkeys(matching)]
