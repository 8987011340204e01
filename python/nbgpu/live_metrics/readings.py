"""The samples of a session's accelerators, or of a pool's, as rows of plain values."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import Any

from nbgpu import errors
from nbgpu.client.pool import Pool
from nbgpu.notebook import this_notebook
from nbgpu.session_client import SessionClient
from nbgpu_protocol.v1 import pool_pb2

MAX_HISTORY_S = 3600.0
COLUMNS = (
    "utilisation_percent",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_watts",
    "power_limit_watts",
    "temperature_celsius",
    "sm_clock_mhz",
    "memory_clock_mhz",
    "pcie_tx_bytes_per_s",
    "pcie_rx_bytes_per_s",
    "nvlink_tx_bytes_per_s",
    "nvlink_rx_bytes_per_s",
    "ecc_errors_corrected",
    "ecc_errors_uncorrected",
)
"""What a sample may say, with the unit in the name. None is unknown."""
_FIRST_COLUMNS = ("time_unix_s", "accelerator_id", "index", "type", "simulated")
_LAST_COLUMNS = ("throttle_reasons", "xid")

Row = dict[str, Any]


def rows_of(samples: Iterable[pool_pb2.Sample], accelerators: Mapping[str, pool_pb2.Accelerator]) -> list[Row]:
    """Returns a row for each sample of the accelerators.

    Args:
        samples: Of whatever accelerators.
        accelerators: Those that are wanted, by their id.
    """
    rows = []
    for sample in samples:
        accelerator = accelerators.get(sample.accelerator_id)
        if accelerator is None:
            continue
        row: Row = {
            "time_unix_s": sample.time_unix_s,
            "accelerator_id": sample.accelerator_id,
            "index": accelerator.index,
            "type": accelerator.type,
            "simulated": sample.simulated,
        }
        for name in COLUMNS:
            row[name] = getattr(sample, name) if sample.HasField(name) else None
        row["throttle_reasons"] = ", ".join(sample.throttle_reasons)
        row["xid"] = sample.xid.code if sample.HasField("xid") else None
        rows.append(row)
    return rows


async def recorded_rows(client: SessionClient, last_s: float) -> list[Row]:
    """Returns what is recorded of a session's accelerators, oldest first.

    Args:
        client: The session.
        last_s: Of how many seconds, up to 3600. Of GPUs only since the session has held them.

    Raises:
        CommandError: There is no such time.
    """
    if not 0 < last_s <= MAX_HISTORY_S:
        raise errors.CommandError(f"last_s is {last_s!r}, and must be more than 0 and at most {MAX_HISTORY_S:g}", "")
    held = {each.id: each for each in client.info.accelerators}
    rows: list[Row] = []
    async for batch in client.pool.watch_samples(last_s, history_only=True):
        rows += rows_of(
            (each for each in batch.samples if each.session_id == client.id or _is_shared(held, each)), held
        )
    return rows


def as_frame(rows: list[Row]) -> Any:
    """Returns the rows as a pandas DataFrame with the time as its index; as they are where there is no pandas."""
    try:
        import pandas
    except ImportError:
        return rows
    columns = [*_FIRST_COLUMNS, *COLUMNS, *_LAST_COLUMNS]
    frame = pandas.DataFrame(rows, columns=columns)
    for name in (*COLUMNS, "xid"):
        frame[name] = frame[name].astype("float64")
    frame.index = pandas.to_datetime(frame["time_unix_s"], unit="s", utc=True).rename("time")
    return frame


async def shown_accelerators(*, start: bool = True) -> tuple[Pool, list[pool_pb2.Accelerator]]:
    """Returns what to show of: what the chosen session holds, else the GPUs of the default pool, else its CPU.

    Args:
        start: Start this machine's agent if that is the pool, and it does not run.
    """
    notebook = this_notebook()
    session = await notebook.find_chosen()
    if session is not None and session.info.accelerators:
        return session.pool, list(session.info.accelerators)
    pool = await notebook.pool(start=start)
    async for state in pool.watch():
        gpus = [each for each in state.accelerators if not each.shared]
        return pool, gpus or list(state.accelerators)
    raise errors.AgentUnreachableError("the agent ended")


async def live_rows(
    pool: Pool, accelerators: Iterable[pool_pb2.Accelerator], history_s: float = 0.0
) -> AsyncGenerator[list[Row], None]:
    """Yields the recorded rows of the last seconds, if there are any, then those of each new reading."""
    wanted = {each.id: each for each in accelerators}
    async for batch in pool.watch_samples(history_s):
        if rows := rows_of(batch.samples, wanted):
            yield rows


def _is_shared(held: Mapping[str, pool_pb2.Accelerator], sample: pool_pb2.Sample) -> bool:
    return sample.accelerator_id in held and held[sample.accelerator_id].shared
