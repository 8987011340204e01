"""What is written down of each kernel, so that the next agent takes it over, or ends what is left of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from nbgpu_agent.isolation.os_user import OsUser
from nbgpu_agent.kernel_folders import RECORD_FILE, SHORT_FOLDER_PREFIX
from nbgpu_agent.processes import end_processes_now, signal_process, start_time


@dataclass(frozen=True)
class KernelRecord:
    """What an agent writes down of a kernel, so that the next one finds it."""

    id: str
    pid: int | None
    started: float | None
    """When the process was started, by which it is told from a later one of the same number."""
    runtime_folder: Path
    os_user: OsUser | None = None
    """As whom it runs, as far as files need it; None: as the agent."""
    sandboxed: bool = False

    @property
    def runs(self) -> bool:
        return self.pid is not None and self.started is not None and start_time(self.pid) == self.started


def write_kernel_record(
    kernel_id: str, pid: int | None, os_user: OsUser | None, path: Path, *, runtime_folder: Path, sandboxed: bool
) -> None:
    """Writes the record of a kernel: whole or not at all, for whoever comes after a kill.

    Args:
        pid: Of its process; None: it is about to be made.
        path: Of the record.
    """
    record = {
        "id": kernel_id,
        "pid": pid,
        "start_time": start_time(pid) if pid is not None else None,
        "runtime_folder": str(runtime_folder),
        "user": [os_user.uid, os_user.gid] if os_user is not None else None,
        "sandboxed": sandboxed,
    }
    new = path.with_name(f"{RECORD_FILE}.new")
    new.write_text(json.dumps(record))
    new.replace(path)


def read_kernel_record(folder: Path, kernel_id: str) -> KernelRecord | None:
    """Returns the record of a kernel; None where there is none that can be read."""
    try:
        record = json.loads((folder / kernel_id / RECORD_FILE).read_text())
        pid, started, user = record["pid"], record["start_time"], record.get("user")
        return KernelRecord(
            str(record["id"]),
            pid if isinstance(pid, int) else None,
            started if isinstance(started, float) else None,
            Path(record["runtime_folder"]),
            OsUser("", int(user[0]), int(user[1]), Path()) if user is not None else None,
            record.get("sandboxed") is True,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def reap_leftovers(folder: Path, spared: Collection[str] = ()) -> list[str]:
    """Ends every process and removes every folder that an agent left which was killed. Blocks.

    Called before the folder's next agent starts kernels. Processes are found by the kernel's random marker, or by
    number and start time, so that none is hit that was given the number since.

    Args:
        folder: Of all kernels.
        spared: Names of folders in it that are adopted.

    Returns:
        What was ended and removed, in words.
    """
    done: list[str] = []
    if not folder.is_dir():
        return done
    for kernel_folder in sorted(folder.iterdir()):
        if kernel_folder.name in spared:
            continue
        record = read_kernel_record(folder, kernel_folder.name) or KernelRecord(
            kernel_folder.name, None, None, kernel_folder
        )
        if record.runs:
            assert record.pid is not None
            signal_process(record.pid, signal.SIGKILL)
        ended = end_processes_now([record.id])
        if ended:
            done.append(f"ended {len(ended)} processes of kernel {record.id}: {', '.join(map(str, ended))}")
        if record.runtime_folder != kernel_folder and _is_short_folder(record.runtime_folder, record.id):
            shutil.rmtree(record.runtime_folder, ignore_errors=True)
            done.append(f"removed {record.runtime_folder}")
        shutil.rmtree(kernel_folder, ignore_errors=True)
        done.append(f"removed {kernel_folder}")
    return done


def _is_short_folder(folder: Path, kernel_id: str) -> bool:
    """Says whether it is the kernel's folder as Kernel makes it, so that a damaged record removes nothing else."""
    return (
        folder.name == f"{SHORT_FOLDER_PREFIX}{kernel_id}"
        and folder.is_dir()
        and not folder.is_symlink()
        and folder.stat().st_uid == os.getuid()
    )
