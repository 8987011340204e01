"""Which rank this process is, for functions that run under `nbgpu.distributed`: read from torchrun's variables.

Outside of a rank there is one process alone: every rank is 0, and every size 1.
"""

from __future__ import annotations

import os
import socket
from typing import Any

__all__ = [
    "get_global_rank",
    "get_local_rank",
    "get_local_world_size",
    "get_node_ip",
    "get_node_rank",
    "get_replica_rank",
    "get_world_size",
]


def get_global_rank(group: Any = None) -> int:
    """Returns the number of this rank, from 0.

    Args:
        group: A process group of torch's, in which it is counted; None: among all.
    """
    if group is not None:
        import torch.distributed

        return int(torch.distributed.get_rank(group))
    return _number("RANK", 0)


def get_local_rank() -> int:
    """Returns the number of this rank on its node, from 0: the index of its GPU."""
    return _number("LOCAL_RANK", 0)


def get_world_size(group: Any = None) -> int:
    """Returns how many ranks there are.

    Args:
        group: As for `get_global_rank`.
    """
    if group is not None:
        import torch.distributed

        return int(torch.distributed.get_world_size(group))
    return _number("WORLD_SIZE", 1)


def get_local_world_size() -> int:
    """Returns how many ranks there are on this node."""
    return _number("LOCAL_WORLD_SIZE", 1)


def get_node_rank() -> int:
    """Returns the number of this node, from 0."""
    return _number("NODE_RANK", _number("GROUP_RANK", 0))


def get_replica_rank() -> int:
    """Returns the number of this rank's replica of the job, from 0: its node's."""
    return get_node_rank()


def get_node_ip() -> str:
    """Returns the address by which this node's name is known; loopback where it is not."""
    try:
        return socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1"


def _number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.strip() else otherwise
