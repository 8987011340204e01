"""What a rank says of its process groups when its launcher asks: a thread of its own answers, so also while it waits.

It cannot answer while other code holds the interpreter's lock, as some extensions do when they compute; then nothing is
known.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from nbgpu_kernel.ranks.call_folder import write_json

_CHUNK_BYTES = 4096


def answer_from_now_on(questions: int, path: Path) -> None:
    """Starts the thread.

    Args:
        questions: A pipe's end; each byte of it is a question.
        path: Where the answer goes, as JSON: `number`, of questions up to now, `counts`, how many collectives the rank
            has begun by process group, and `pending`, one that is not done.
    """
    threading.Thread(target=_answer, args=(questions, path), name="nbgpu-facts", daemon=True).start()


def read_facts() -> dict[str, Any]:
    """Returns `counts` and `pending`, see `answer_from_now_on`."""
    return {"counts": _counts(), "pending": _pending()}


def _answer(questions: int, path: Path) -> None:
    number = 0
    while asked := os.read(questions, _CHUNK_BYTES):
        number += len(asked)
        with contextlib.suppress(OSError):
            write_json(path, {"number": number, **read_facts()})


def _counts() -> dict[str, int] | None:
    """Returns the sequence number of each process group; None where torch does not tell."""
    torch_side = sys.modules.get("torch.distributed.distributed_c10d")
    if torch_side is None:
        return {}
    try:
        world = torch_side._world
        return {str(world.pg_names[group]): int(group._get_sequence_number_for_group()) for group in list(world.pg_map)}
    except Exception:  # noqa: BLE001 - these are torch's own affairs, and differ from version to version
        return None


def _pending() -> str:
    """Returns what torch's flight recorder has as the oldest collective that is not done, such as "all_reduce"."""
    torch_side: Any = sys.modules.get("torch._C._distributed_c10d")
    for name in ("_dump_fr_trace_json", "_dump_nccl_trace_json"):
        dump = getattr(torch_side, name, None)
        if dump is not None:
            with contextlib.suppress(Exception):
                entries = json.loads(dump(includeCollectives=True, onlyActive=True)).get("entries", [])
                return _oldest_pending(entries)
    return ""


def _oldest_pending(entries: list[dict[str, Any]]) -> str:
    for entry in entries:
        if not entry.get("retired") and entry.get("state") != "completed":
            return str(entry.get("profiling_name", "")).rpartition(":")[2]
    return ""
