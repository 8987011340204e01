"""Has a process leave its process groups, so that the ranks that wait for it in a collective are freed.

A rank that is blocked in a collective sees no signal, and what its own threads do does not wake it. What frees it is
that another rank, which has failed, gives its connections up: then it fails as well, gives up its own, and so on (7
survivors of 8 in 0.4 s, with gloo). A rank that waits is freed by giving up its own as well, though its groups are
then gone.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from nbgpu_kernel.ranks.gloo_connections import shut_down_gloo_connections

NCCL_VARIABLE = "TORCH_NCCL_ASYNC_ERROR_HANDLING"
"""NCCL's watchdog ends the process where a communicator fails, unless it is told to abort that alone (2)."""
NCCL_ABORTS_ALONE = "2"


def leave_groups() -> bool:
    """Gives up the default process group and all others. Returns whether there were any; for any thread."""
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available():
        return False
    had_groups = distributed.is_initialized()
    if had_groups:
        _give_up(distributed)
    shut_down_gloo_connections()  # also of groups that the cell has given up itself, while something still has them
    return bool(had_groups)


def forget_failed_groups() -> None:
    """Has the next process group get the same name on every rank; to be called before a cell.

    torch counts a group before it connects its ranks, and names it by its number, by which they find each other. Where
    that failed on some of them, and others had not tried, they would wait for each other at different names.
    """
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or distributed.is_initialized():
        return
    with contextlib.suppress(AttributeError):  # these are torch's own affairs
        distributed.distributed_c10d._world.group_count = 0


def _give_up(distributed: Any) -> None:
    try:
        if _has_nccl(distributed):
            # Destroying waits for the kernels that are under way, and those wait for the ranks that are gone.
            distributed.distributed_c10d._abort_process_group()
        else:
            distributed.destroy_process_group()
    except Exception as error:  # noqa: BLE001 - another thread may be giving it up as well
        if distributed.is_initialized():
            print(f"the process group could not be given up: {type(error).__name__}: {error}", file=sys.stderr)


def _has_nccl(distributed: Any) -> bool:
    return "nccl" in str(distributed.get_backend_config())
