"""The file that a buffer was mapped from is found, for as long as the buffer is as the file."""

from __future__ import annotations

import gc
import mmap
import os
from pathlib import Path

import pytest

from nbgpu_kernel.values import mapped_files

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="known on Linux alone")
SIZE = 3 << 20


def mapped(path: Path) -> mmap.mmap:
    path.write_bytes(os.urandom(SIZE))
    with open(path, "rb") as file:
        found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        mapped_files.remember(found, file.fileno())
    path.unlink()
    return found


def test_a_part_of_a_mapping_is_found_though_the_file_is_removed(tmp_path: Path) -> None:
    mapping = mapped(tmp_path / "file")
    part = memoryview(mapping)[4096 : 4096 + (1 << 20)]
    place = mapped_files.find(part)
    assert place is not None
    with open(place.path, "rb") as file:
        file.seek(place.offset)
        assert file.read(len(part)) == bytes(part)
    part[5] ^= 1
    assert mapped_files.find(part) is None, "written to"
    assert mapped_files.find(memoryview(mapping)[2 << 20 :]) is not None, "not there"


def test_other_memory_is_of_no_file(tmp_path: Path) -> None:
    mapping = mapped(tmp_path / "file")
    assert mapped_files.find(memoryview(bytearray(SIZE))) is None
    assert mapped_files.find(memoryview(mapping)[:1000]) is None, "small"
    assert mapped_files.find(memoryview(mapping).toreadonly()) is None


def test_nothing_is_kept_when_the_mapping_is_gone(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    mapping = mapped(tmp_path / "file")
    assert len(set(os.listdir("/proc/self/fd")) - before) >= 1
    del mapping
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before
