"""Values in one file: what a call takes to its ranks, and what each of them brings back."""

from __future__ import annotations

import json
import mmap
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbgpu_kernel.values import mapped_files
from nbgpu_kernel.values.definitions import Definitions
from nbgpu_kernel.values.encoding import Encoded, encode
from nbgpu_kernel.values.exchange import (
    Definition,
    gather_definitions,
    group_by_sharing,
    load,
    pack_definitions,
)
from nbgpu_kernel.values.packing import Packer, Part, Unpacker

_ALIGNMENT_BYTES = 64
_LENGTH_BYTES = 8
"""The file ends with the length of its JSON, which follows the parts."""


def write_values(path: Path, values: Mapping[str, Any], definitions: Definitions, **fields: Any) -> None:
    """Writes values, with the definitions of their classes, whole or not at all.

    Args:
        path: Of the file; its folder exists.
        values: By name. What they share they go on sharing.
        definitions: This process's.
        fields: Goes along as it is, as JSON.

    Raises:
        Exception: Whatever pickle or a value's own methods raise for what cannot be pickled.
        OSError: The file cannot be written.
    """
    encoded = {name: encode((value,), definitions, with_memo=True) for name, value in values.items()}
    write_encoded(path, values, encoded, definitions, **fields)


def write_encoded(
    path: Path,
    values: Mapping[str, Any],
    encoded: Mapping[str, Encoded],
    definitions: Definitions,
    *,
    refers: bool = False,
    **fields: Any,
) -> None:
    """Writes values that are encoded already, each in a tuple of its own and with its memo; see `write_values`.

    Args:
        refers: Whether what this process has mapped of a file, and has not written to, stays there: it keeps the values
            for as long as the file is read.
    """
    found: dict[str, Definition] = {}
    for each in encoded.values():
        found.update(gather_definitions(each.classes, definitions))
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        packer = _FilePacker(file, refers=refers)
        parcels = []
        for names in group_by_sharing(encoded):
            whole = encoded[names[0]]
            if len(names) > 1:
                whole = encode(tuple(values[name] for name in names), definitions)
            parcels.append({"names": names, **packer.add(whole)})
        message = {
            **fields,
            "definitions": pack_definitions(found, {}, packer),
            "parcels": parcels,
            "places": packer.places,
            "python": list(sys.version_info[:2]),
        }
        content = json.dumps(message).encode()
        file.write(content)
        file.write(len(content).to_bytes(_LENGTH_BYTES, "little"))
    os.replace(partial, path)


def read_values(
    path: Path,
    definitions: Definitions,
    *,
    namespace: dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Puts the values of a file together.

    The file is mapped: large arrays are in memory once for all processes that read it, until one writes to its own.

    Args:
        path: Of the file.
        definitions: This process's.
        namespace: Takes each value as soon as it is there.

    Returns:
        The values by name, and the message with its further fields.

    Raises:
        UndecodableError: A value cannot be put together here.
        FileNotFoundError: There is no such file.
    """
    content = _map(path)
    length = int.from_bytes(content[-_LENGTH_BYTES:], "little")
    message = json.loads(bytes(content[-_LENGTH_BYTES - length : -_LENGTH_BYTES]))

    def fetch(place: str) -> memoryview:
        start, size, *elsewhere = place.split(":", 2)
        whole = _map(elsewhere[0]) if elsewhere else content
        return whole[int(start) : int(start) + int(size)]

    unpacker = Unpacker(message["places"], (), fetch)
    return load(message, unpacker, definitions, {}, namespace=namespace), message


def _map(path: Path | str) -> memoryview:
    with open(path, "rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


class _FilePacker(Packer):
    """Puts every part into one file.

    Args:
        file: To be appended to.
        refers: Whether what is mapped from another file stays there.
    """

    def __init__(self, file: Any, *, refers: bool) -> None:
        super().__init__()
        self._file = file
        self._refers = refers
        self.places: list[dict[str, Any]] = []

    def add(self, encoded: Encoded) -> dict[str, Any]:
        description: dict[str, Any] = {"pickle": self._add_part(list(encoded.segments))}
        buffers = [[self._add_part([each]), 0, each.nbytes, int(each.readonly)] for each in encoded.buffers]
        if buffers:
            description["buffers"] = buffers
        return description

    def _add_part(self, part: Part) -> int:
        place = mapped_files.find(memoryview(part[0])) if self._refers and len(part) == 1 else None
        if place is not None:
            size = memoryview(part[0]).nbytes
            self.places.append({"blob": f"{place.offset}:{size}:{place.path}", "bytes": size})
            return len(self.places) - 1
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT_BYTES))
        start = self._file.tell()
        for piece in part:
            self._file.write(memoryview(piece).cast("B"))
        size = self._file.tell() - start
        self.places.append({"blob": f"{start}:{size}", "bytes": size})
        return len(self.places) - 1
