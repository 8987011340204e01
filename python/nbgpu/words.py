"""Says in words what sessions, accelerators and kernels are and do: the one place for phrasing."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Sequence

from nbgpu_protocol.spans import span_in_words
from nbgpu_protocol.v1 import pool_pb2

_GIB = 1 << 30
_GB = 10**9
_TAIL_LINES = 15
_CRASH = "Fatal Python error"


def accelerators_in_words(accelerators: Iterable[pool_pb2.Accelerator]) -> str:
    """Returns "H100 ×8 (simulated)", or "none"."""
    held = list(accelerators)
    if not held:
        return "none"
    types = list(dict.fromkeys(each.type for each in held))
    parts = []
    for name in types:
        count = sum(each.type == name for each in held)
        parts.append(name if count == 1 else f"{name} ×{count}")
    return ", ".join(parts) + (" (simulated)" if any(each.simulated for each in held) else "")


def offer_in_words(offer: pool_pb2.Offer) -> str:
    """Returns "8 of 8 free", "busy, 3 waiting", or "free" for what is shared."""
    if offer.shared:
        return "free"
    waiting = f", {offer.queued} waiting" if offer.queued else ""
    return (f"{offer.free} of {offer.total} free" if offer.free else f"busy (all {offer.total})") + waiting


def duration_in_words(duration_s: float) -> str:
    """Returns "0.8 s", "1:32" (minutes) or "2:05:10" (hours)."""
    if duration_s < 60:
        return f"{max(0.0, duration_s):.1f} s"
    minutes, seconds = divmod(int(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def memory_in_words(memory_bytes: int) -> str:
    """Returns the capacity as makers sell it, "80 GB"; empty if unknown."""
    return f"{memory_bytes / _GB:.0f} GB" if memory_bytes else ""


def exit_in_words(kernel_exit: pool_pb2.KernelExit) -> str:
    """Returns how a kernel ended, without its last lines."""
    if kernel_exit.ended_because:
        return f"the session's kernel was ended {kernel_exit.ended_because}"
    if kernel_exit.asked_for:
        return "the session's kernel was ended as asked"
    if kernel_exit.HasField("signal"):
        try:
            name = signal.Signals(kernel_exit.signal).name
        except ValueError:
            name = f"signal {kernel_exit.signal}"
        why = ", as the system does when memory runs out" if name == "SIGKILL" else ""
        return f"the session's kernel was killed by {name}{why}"
    if kernel_exit.HasField("exit_code"):
        return f"the session's kernel ended with exit code {kernel_exit.exit_code}"
    return "the session's kernel ended"


def exit_with_tail(kernel_exit: pool_pb2.KernelExit) -> str:
    """Returns how a kernel ended, with the last lines of its standard error."""
    lines = kernel_exit.stderr_tail.strip().splitlines()
    crash = next((at for at, line in enumerate(lines) if line.startswith(_CRASH)), None)
    # A crash's report begins with what happened, anything else ends with it.
    shown = lines[-_TAIL_LINES:] if crash is None else lines[crash : crash + _TAIL_LINES]
    text = "\n".join(f"    {line}" for line in shown)
    return exit_in_words(kernel_exit) + (f"; its last lines on standard error:\n{text}" if text else "")


def state_in_words(session: pool_pb2.SessionInfo, now_unix_s: float | None = None) -> str:
    """Returns what a session does: "running cell [7] for 1:32", "idle 12 min"."""
    now = time.time() if now_unix_s is None else now_unix_s
    if session.phase == pool_pb2.QUEUED:
        return f"queued, {_ordinal(session.queue_position)} of {session.queue_length}"
    if session.phase == pool_pb2.MATERIALISING:
        return session.detail or "building the environment"
    state = session.kernel_state
    if state == pool_pb2.KERNEL_DEAD:
        return exit_in_words(session.kernel_exit).replace("the session's kernel", "kernel")
    if state == pool_pb2.KERNEL_STARTING:
        return "starting its kernel"
    if state == pool_pb2.KERNEL_EXECUTING:
        count = session.executing.execution_count
        cell = f"cell [{count}]" if count else "a cell"
        return f"running {cell} for {duration_in_words(now - session.executing.started_unix_s)}"
    idle_min = int((now - session.last_active_unix_s) // 60)
    return f"idle {idle_min} min" if idle_min else "idle"


def closing_in_words(closing: pool_pb2.Closing, now_unix_s: float | None = None) -> str:
    """Returns when a session is closed by itself, "closes after 60 min without work"; empty if it is not."""
    now = time.time() if now_unix_s is None else now_unix_s
    after = f"closes after {span_in_words(closing.idle_close_s)} without work" if closing.idle_close_s else ""
    if not closing.HasField("closes_unix_s"):
        return after
    left = f"closes in {span_in_words(max(closing.closes_unix_s - now, 1))}"
    if closing.cause == pool_pb2.Closing.IDLE:
        return f"{left}, unless it is used"
    or_after = after.replace("closes", "or") if closing.cause == pool_pb2.Closing.LIFETIME else ""
    why = {
        pool_pb2.Closing.LIFETIME: "the longest that this pool keeps one open",
        pool_pb2.Closing.LEASE: "when its lease ends",
        pool_pb2.Closing.BUDGET: "when its budget is spent",
    }.get(closing.cause, "")
    return ", ".join(filter(None, (left, why, or_after)))


def update_in_words(update: pool_pb2.SessionUpdate) -> str:
    """Returns what is happening to a request for a session."""
    if update.phase == pool_pb2.QUEUED:
        place = f"{_ordinal(update.queue_position)} of {update.queue_length}"
        return f"Queued, {place}" + (f": {update.detail}" if update.detail else "")
    accelerators = accelerators_in_words(update.session.accelerators)
    where = f"{accelerators} on {update.session.node.hostname}"
    return {
        pool_pb2.PLACING: f"Placing {where}",
        pool_pb2.MATERIALISING: (update.detail or "Building the environment") + f" on {where}",
        pool_pb2.STARTING: f"Starting {where}",
    }.get(update.phase, where)


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as aligned columns."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (header, *rows)]
    return "\n".join(line.rstrip() for line in lines)


def offers_table(offers: Iterable[pool_pb2.Offer], pool_names: Sequence[str] = ()) -> str:
    """Returns offers as lines.

    Args:
        pool_names: The pool of each of them; empty: it is not said.
    """
    rows = [
        (
            offer.type,
            memory_in_words(offer.memory_bytes),
            offer_in_words(offer),
            "simulated" if offer.simulated else "",
            offer.node_hostname,
        )
        for offer in offers
    ]
    return _of_pools(("ACCELERATOR", "MEMORY", "STATE", "", "NODE"), rows, pool_names)


def sessions_table(
    sessions: Iterable[pool_pb2.SessionInfo], notebook_id: str = "", pool_names: Sequence[str] = ()
) -> str:
    """Returns sessions as lines.

    Args:
        notebook_id: Of the notebook whose sessions are pointed out.
        pool_names: The pool of each of them; empty: it is not said.
    """
    rows = [
        (
            session.id,
            session.notebook_name or "-",
            accelerators_in_words(session.accelerators),
            state_in_words(session),
            "this notebook" if notebook_id and session.notebook_id == notebook_id else "",
        )
        for session in sessions
    ]
    if not rows:
        return "no sessions"
    return _of_pools(("SESSION", "NOTEBOOK", "ACCELERATOR", "STATE", ""), rows, pool_names)


def _of_pools(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]], pool_names: Sequence[str]) -> str:
    if not pool_names:
        return table(titles, rows)
    return table(("POOL", *titles), [(name, *row) for name, row in zip(pool_names, rows, strict=True)])


def samples_table(accelerators: Iterable[pool_pb2.Accelerator], samples: Iterable[pool_pb2.Sample]) -> str:
    """Returns the newest reading of each accelerator; what is unknown is left blank."""
    newest = {sample.accelerator_id: sample for sample in samples}
    rows = []
    for accelerator in accelerators:
        sample = newest.get(accelerator.id)
        if sample is None:
            continue
        used = f"{sample.memory_used_bytes / _GIB:.1f}" if sample.HasField("memory_used_bytes") else "?"
        total = f" of {sample.memory_total_bytes / _GIB:.0f} GiB" if sample.HasField("memory_total_bytes") else " GiB"
        rows.append(
            (
                accelerator.type + (" (simulated)" if sample.simulated else ""),
                f"{sample.utilisation_percent:.0f}%" if sample.HasField("utilisation_percent") else "",
                used + total,
                f"{sample.power_watts:.0f} W" if sample.HasField("power_watts") else "",
                f"{sample.temperature_celsius:.0f} °C" if sample.HasField("temperature_celsius") else "",
            )
        )
    return table(("ACCELERATOR", "BUSY", "MEMORY", "POWER", "TEMPERATURE"), rows)


def dropped_in_words(first: int, last: int) -> str:
    """Returns what is said of messages, by their numbers, that are not held any more."""
    return f"{last - first + 1} messages of the session were dropped by the agent before they could be fetched"
