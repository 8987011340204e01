"""Brings a kernel from its start to its session: it listens, it answers, and it is given to the session."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbgpu_agent.channels import Channel, message_parts
from nbgpu_agent.errors import KernelFailedError
from nbgpu_agent.kernels import STDERR_TAIL_BYTES, Kernel

START_TIMEOUT_S = 60.0
_LISTENS_POLL_S = 0.01


async def wait_ready(kernel: Kernel, timeout_s: float = START_TIMEOUT_S) -> None:
    """Waits until a kernel that was started answers, on its output socket as well.

    Raises:
        KernelFailedError: It ended, or did not answer in time.
    """
    loop = asyncio.get_running_loop()
    heard: set[Channel] = set()
    both = loop.create_future()

    def on_message(channel: Channel, parts: list[bytes]) -> None:
        heard.add(channel)
        if channel is Channel.SHELL:
            kernel.python_version = json.loads(parts[3])["language_info"]["version"]
        if {Channel.SHELL, Channel.IOPUB} <= heard and not both.done():
            both.set_result(None)

    kernel.channels.on_message = on_message
    deadline = loop.time() + timeout_s
    if kernel.is_apart:
        await _connect_sealed(kernel, deadline, timeout_s)
    # What the kernel publishes before the subscription arrives is lost, so it is asked until both have come.
    while not both.done():
        kernel.channels.send(Channel.SHELL, message_parts("kernel_info_request", {}))
        await asyncio.wait({both, kernel.ended}, timeout=2.0 if not heard else 0.1, return_when=asyncio.FIRST_COMPLETED)
        if kernel.ended.done():
            raise _failed(kernel, f"the kernel of {kernel.python} ended while it started")
        if loop.time() > deadline:
            raise _failed(kernel, f"the kernel of {kernel.python} did not answer within {timeout_s:g} s")


async def _connect_sealed(kernel: Kernel, deadline: float, timeout_s: float) -> None:
    while not kernel.folders.listens:
        await asyncio.wait({kernel.ended}, timeout=_LISTENS_POLL_S)
        if kernel.ended.done():
            raise _failed(kernel, f"the kernel of {kernel.python} ended while it started")
        if asyncio.get_running_loop().time() > deadline:
            raise _failed(kernel, f"the kernel of {kernel.python} did not listen within {timeout_s:g} s")
    if not await asyncio.to_thread(kernel.find_process):
        raise _failed(kernel, f"the kernel of {kernel.python} ended while it started")
    if wrong := kernel.folders.seal_sockets():
        raise _failed(kernel, f"the kernel of {kernel.python} is not talked to: {wrong}")
    kernel.channels.connect()


async def assign(
    kernel: Kernel,
    variables: Mapping[str, str],
    working_folder: Path,
    blobs_folder: Path | None,
    *,
    outlives_agent: bool,
) -> None:
    """Makes a kernel a session's, with these environment variables, in this folder, and with its user's blobs.

    Args:
        outlives_agent: Whether it waits for the next agent when this one is killed.

    Raises:
        KernelFailedError: It ended, refused, or did not answer.
    """
    loop = asyncio.get_running_loop()
    replied: asyncio.Future[dict[str, Any]] = loop.create_future()
    idle = loop.create_future()
    content: dict[str, Any] = {
        "environment_variables": dict(variables),
        "working_folder": str(working_folder),
        "outlives_agent": outlives_agent,
    }
    if blobs_folder is not None:
        content["blobs_folder"] = str(blobs_folder)
    parts = message_parts("nbgpu_assign_request", content)
    message_id = json.loads(parts[0])["msg_id"]

    def on_message(channel: Channel, received: list[bytes]) -> None:
        if json.loads(received[1]).get("msg_id") != message_id:
            return
        if channel is Channel.SHELL and not replied.done():
            replied.set_result(json.loads(received[3]))
        elif channel is Channel.IOPUB and b'"idle"' in received[3] and not idle.done():
            idle.set_result(None)

    kernel.channels.on_message = on_message
    kernel.channels.send(Channel.SHELL, parts)
    both = asyncio.gather(replied, idle)
    try:
        await asyncio.wait({both, kernel.ended}, timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not both.done():
            raise _failed(kernel, "the kernel ended, or did not answer, when it was given to its session")
        reply = replied.result()
    finally:
        both.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await both
    if reply["status"] != "ok":
        raise _failed(kernel, f"the kernel refused its session: {reply['ename']}: {reply['evalue']}")
    kernel.channels.in_order = True


def _failed(kernel: Kernel, message: str) -> KernelFailedError:
    tail = kernel.log.tail(STDERR_TAIL_BYTES).strip()
    hint = "`%gpu restart` tries again"
    if "No module named 'ipykernel" in tail or "No module named 'zmq" in tail:
        hint = f"{kernel.python} -m pip install ipykernel"
    return KernelFailedError(f"{message}:\n{tail}" if tail else message, hint)
