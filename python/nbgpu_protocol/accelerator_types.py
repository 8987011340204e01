"""Canonical names of accelerator types, from the many spellings that drivers, clouds and people use."""

from __future__ import annotations

import re

CPU = "CPU"

NOMINAL_MEMORY_GB = {
    "B300": 288, "B200": 192, "GB200": 192, "GH200": 96, "H200": 141, "H100": 80, "H800": 80, "H20": 96,
    "A100": 40, "A800": 80, "A40": 48, "A30": 24, "A10": 24, "A10G": 24, "A16": 16, "A2": 16,
    "L40S": 48, "L40": 48, "L4": 24, "T4": 16, "V100": 16, "P100": 16, "P40": 24, "P4": 8, "K80": 12,
    "RTX-5090": 32, "RTX-4090": 24, "RTX-3090": 24, "RTX-A6000": 48, "RTX-6000-ADA": 48,
    "MI300X": 192, "MI250": 128,
}  # fmt: skip
"""Memory in GB by which makers sell the type (the smallest, where there are several). Sources: vendors' data sheets."""

_NOISE = re.compile(
    r"\b(NVIDIA|TESLA|GEFORCE|QUADRO|AMD|INSTINCT|GPU|PCIE|SXM\d?|HBM\d?E?|NVL|GENERATION|GRAPHICS|LAPTOP)\b"
)
_MEMORY = re.compile(r"\b(\d+) ?G(?:I?B)?\b")
_MIG = re.compile(r"\bMIG ((?:\d+C\.)?\d+G\.(\d+)GB(?:\+[A-Z.]+)*)")
"""A slice's profile as the driver names it: `1g.10gb`, `1c.3g.20gb`, `1g.10gb+me`."""
_NOMINAL_TOLERANCE = 0.12
"""By how much what drivers report differs from the nominal memory: 24.15 for an A10 of 24 GB, 206 for 192 GiB."""


def canonical_type(name: str) -> tuple[str, int | None]:
    """Returns the canonical type and, where the name says it, the memory in GB.

    >>> canonical_type("NVIDIA H100 80GB HBM3")
    ('H100', 80)
    >>> canonical_type("a100-80gb")
    ('A100', 80)
    >>> canonical_type("NVIDIA GeForce RTX 4090")
    ('RTX-4090', None)
    >>> canonical_type("NVIDIA RTX 6000 Ada Generation")
    ('RTX-6000-ADA', None)
    >>> canonical_type("NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    ('H100-MIG-1G.10GB', 10)
    """
    text = re.sub(r"[\s_\-/]+", " ", name.upper()).strip()
    if slice_found := _MIG.search(text):
        whole, _ = canonical_type(text[: slice_found.start()])
        return f"{whole}-MIG-{slice_found.group(1)}", int(slice_found.group(2))
    found = _MEMORY.search(text)
    memory_gb = int(found.group(1)) if found else None
    text = _MEMORY.sub(" ", text)
    text = _NOISE.sub(" ", text)
    words = text.split()
    if len(words) == 1 and (glued := re.fullmatch(r"(RTX)(A?\d{4})(ADA)?", words[0])):
        words = [word for word in glued.groups() if word]
    return "-".join(words), memory_gb


def nominal_memory_bytes(name: str, reported_bytes: int) -> int:
    """Returns the capacity by which the accelerator is sold, in bytes; 80 GB are 80 * 10^9.

    Args:
        name: As the driver says it.
        reported_bytes: Total memory as the driver says it, which is a few percent more or less.
    """
    accelerator_type, named_gb = canonical_type(name)
    for nominal_gb in (named_gb, NOMINAL_MEMORY_GB.get(accelerator_type)):
        if nominal_gb and abs(reported_bytes - nominal_gb * 10**9) <= _NOMINAL_TOLERANCE * nominal_gb * 10**9:
            return nominal_gb * 10**9
    return round(reported_bytes / 2**30) * 10**9 or reported_bytes
