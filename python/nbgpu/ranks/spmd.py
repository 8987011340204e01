"""`%%gpu --spmd`: what its options say, and on which ranks of a session a cell is to run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nbgpu import words
from nbgpu.errors import CommandError
from nbgpu.ranks.call import view_here
from nbgpu.ranks.function import hang_limit_s
from nbgpu_kernel.ranks.lines import ranks_in_words
from nbgpu_protocol.v1 import pool_pb2

SPMD_OPTION = "--spmd"
RANKS_OPTION = "--ranks"
ALL_RANKS_OPTION = "--all-ranks"
OPTIONS = (SPMD_OPTION, RANKS_OPTION, ALL_RANKS_OPTION)
_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True)
class SpmdOptions:
    """What a `%%gpu` line says of ranks."""

    ranks: tuple[int, ...] | None
    """Those that are to run the cell; None: all."""
    all_ranks: bool
    """Whether every line of every rank is shown."""


def take_spmd(line: str) -> tuple[str, SpmdOptions | None]:
    """Takes `--spmd`, `--ranks 0,2-3` and `--all-ranks` out of a line; returns the rest, and None if it has none.

    Raises:
        CommandError: Ranks are missing, or cannot be read; or `--all-ranks` is there alone.
    """
    rest: list[str] = []
    is_spmd = all_ranks = False
    ranks: tuple[int, ...] | None = None
    tokens = iter(line.split())
    for token in tokens:
        option, equals, value = token.partition("=")
        if token == SPMD_OPTION:
            is_spmd = True
        elif token == ALL_RANKS_OPTION:
            all_ranks = True
        elif option == RANKS_OPTION:
            ranks = parse_ranks(value if equals else next(tokens, ""))
        else:
            rest.append(token)
    if is_spmd or ranks is not None:
        return " ".join(rest), SpmdOptions(ranks, all_ranks)
    if all_ranks:
        raise CommandError(
            f"{ALL_RANKS_OPTION} is for a cell that runs on several ranks", f"`%%gpu {SPMD_OPTION} {ALL_RANKS_OPTION}`"
        )
    return line, None


def parse_ranks(text: str) -> tuple[int, ...]:
    """Reads "0,2-3".

    Raises:
        CommandError: It is something else.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last or last - first > 10_000:
            raise CommandError(
                f"{RANKS_OPTION} needs numbers of ranks, not {text!r}" if text else f"{RANKS_OPTION} needs ranks",
                f"such as `%%gpu {RANKS_OPTION} 0,2-3`",
            )
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def wish_for(options: SpmdOptions, accelerators: Sequence[pool_pb2.Accelerator], hostname: str) -> dict[str, Any]:
    """Returns what the session's kernel is told: on which ranks the cell runs, of how many, and how they are shown.

    Raises:
        CommandError: The session has no accelerators of its own, or no such ranks.
    """
    if all(each.shared for each in accelerators):
        raise CommandError(
            f"{SPMD_OPTION} runs a cell on a rank for each accelerator, and the session on {hostname} has none",
            '`%gpu offers` lists them; `@distributed(gpus=4, gpu_type="CPU")` runs a function on ranks of a CPU',
        )
    size = len(accelerators)
    ranks = options.ranks if options.ranks is not None else tuple(range(size))
    missing = [rank for rank in ranks if rank >= size]
    if missing:
        there = "rank 0 alone" if size == 1 else f"ranks 0-{size - 1}"
        raise CommandError(
            f"there is no {_no_such(missing)} in a session on {words.accelerators_in_words(accelerators)},"
            f" which has {there}",
            f"`{RANKS_OPTION} {size - 1}` is the last one; without {RANKS_OPTION} a cell runs on all",
        )
    return {
        "ranks": list(ranks),
        "world_size": size,
        "view": view_here(all_ranks=options.all_ranks),
        "hang_after_s": hang_limit_s({}),
    }


def _no_such(ranks: list[int]) -> str:
    return ranks_in_words(ranks)
