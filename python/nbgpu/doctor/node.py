"""Looks at this machine as one that has GPUs: driver, NVML, disk, shared memory, open files, the agent's folder."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from nbgpu.doctor.findings import Finding, fail, ok, warn
from nbgpu_protocol.discovery import agent_folder

_GIB = 1 << 30
LOW_DISK_BYTES, LEAST_DISK_BYTES = 20 * _GIB, 2 * _GIB
LOW_SHM_BYTES = _GIB
"""Docker gives a container 64 MiB, and a DataLoader's workers hand over every batch there."""
LOW_FILES, LEAST_FILES = 1024, 512
"""A session takes some 30 descriptors, and every client of it a few."""
AGENT_PORT = 7443
_NVIDIA = "0x10de"
_SHM = Path("/dev/shm")
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_PCI = Path("/sys/bus/pci/devices")


def look_at_node() -> Iterator[Finding]:
    """Yields what is found on this machine."""
    yield look_at_nvml()
    for path, what in ((agent_folder(), "the agent's folder"), (Path(tempfile.gettempdir()), "temporary files")):
        existing = next(each for each in (path, *path.absolute().parents) if each.exists())
        yield judge_disk(shutil.disk_usage(existing).free, path, what)
    if _SHM.is_dir():
        yield judge_shm(shutil.disk_usage(_SHM).total)
    if sys.platform != "win32":
        import resource

        yield judge_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        yield look_at_folder(agent_folder())
    yield look_at_port()


def look_at_nvml() -> Finding:
    """Says whether NVML loads, and finds GPUs."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return judge_nvml_failure(error.value, str(error), has_gpu=_has_gpu(), kernel_driver=_kernel_driver())
    try:
        version = pynvml.nvmlSystemGetDriverVersion()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        return fail("gpu", f"NVML loads, and then fails: {error}", "`nvidia-smi` says more; `dmesg` too")
    finally:
        pynvml.nvmlShutdown()
    text = version.decode() if isinstance(version, bytes) else version
    if not count:
        return warn("gpu", f"NVIDIA's driver {text} finds no GPU", "`nvidia-smi` and `lspci | grep -i nvidia` say more")
    return ok("gpu", f"{count} GPU{'s' if count > 1 else ''}, NVIDIA's driver {text}")


def judge_nvml_failure(code: int, text: str, *, has_gpu: bool, kernel_driver: str | None) -> Finding:
    """Says what it means that NVML does not initialise.

    Args:
        code: NVML's.
        text: In NVML's words.
        has_gpu: The machine has an NVIDIA device.
        kernel_driver: Version of the driver's part in the kernel; None: it is not loaded.
    """
    import pynvml

    if code == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        loaded = f" ({kernel_driver} is loaded)" if kernel_driver else ""
        return fail(
            "gpu",
            f"NVIDIA's library and its driver in the kernel are of different versions{loaded}",
            "the driver was upgraded: restart the machine, or unload and load the nvidia modules",
        )
    if code == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND and kernel_driver:
        return fail(
            "gpu",
            f"NVIDIA's driver {kernel_driver} is loaded, but libnvidia-ml.so.1 is not found",
            "start a container with `--gpus all` (NVIDIA Container Toolkit); else install the driver's libraries",
        )
    if has_gpu:
        return fail("gpu", f"there is an NVIDIA device, but no driver that works: {text}", "install NVIDIA's driver")
    return ok("gpu", "no NVIDIA GPU here, so this machine offers its CPU")


def judge_disk(free_bytes: int, path: Path, what: str) -> Finding:
    free = f"{free_bytes / _GIB:.1f} GiB free for {what}, in {path}"
    if free_bytes < LEAST_DISK_BYTES:
        return fail(
            "disk", f"only {free}", "`uv cache clean` frees some, or NBGPU_AGENT_DIR and TMPDIR name other folders"
        )
    if free_bytes < LOW_DISK_BYTES:
        return warn("disk", f"only {free}, and an environment with torch takes 8 GiB", "`uv cache clean` frees some")
    return ok("disk", free)


def judge_shm(total_bytes: int) -> Finding:
    size = f"/dev/shm has {total_bytes / _GIB:.2g} GiB"
    if total_bytes < LOW_SHM_BYTES:
        return warn(
            "shm",
            f"{size}, and DataLoader workers that share batches there need more",
            "`docker run --shm-size=8g …`, or `mount -o remount,size=8G /dev/shm`",
        )
    return ok("shm", size)


def judge_files(limit: int) -> Finding:
    text = f"{limit} files may be open in a process"
    if 0 <= limit < LEAST_FILES:
        return fail("files", f"only {text}", "`ulimit -n 65536`, or LimitNOFILE=65536 in the service's unit")
    if 0 <= limit < LOW_FILES:
        return warn("files", f"only {text}", "`ulimit -n 65536`, or LimitNOFILE=65536 in the service's unit")
    return ok("files", "any number of files may be open in a process" if limit < 0 else text)


def look_at_folder(folder: Path) -> Finding:
    """Says whether the agent's folder, with its socket and token, is its owner's alone."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        parent = next(each for each in folder.absolute().parents if each.exists())
        if not os.access(parent, os.W_OK):
            return fail("folder", f"{folder} cannot be made: {parent} is not writable", f"`chmod u+w {parent}`")
        return ok("folder", f"{folder} is made when the agent starts")
    if not stat.S_ISDIR(status.st_mode):
        return fail("folder", f"{folder}, the agent's folder, is no folder", "set NBGPU_AGENT_DIR to another")
    if status.st_uid != os.getuid():
        return fail(
            "folder", f"{folder} belongs to user {status.st_uid}", "set NBGPU_AGENT_DIR to a folder of your own"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        return fail("folder", f"others can look into {folder} (mode {mode})", f"`chmod 700 {folder}`")
    return ok("folder", f"{folder} is yours alone")


def look_at_port(port: int = AGENT_PORT) -> Finding:
    """Says whether the port is free on which `nbgpu agent serve` listens."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            hint = f"it may be an agent of yours; another takes `nbgpu agent serve --listen 127.0.0.1:{port + 1}`"
            return warn(
                "port", f"127.0.0.1:{port}, where `nbgpu agent serve` listens, is taken: {error.strerror}", hint
            )
    return ok("port", f"127.0.0.1:{port} is free for `nbgpu agent serve`")


def _kernel_driver() -> str | None:
    try:
        line = _DRIVER_FILE.read_text().splitlines()[0]
    except (OSError, IndexError):
        return None
    return next((word for word in line.split() if word[:1].isdigit() and "." in word), line)


def _has_gpu() -> bool:
    """Says whether there is a display controller or an accelerator of NVIDIA's on the PCI bus."""
    for device in _PCI.glob("*") if _PCI.is_dir() else ():
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == _NVIDIA and kind.startswith(("0x03", "0x12")):
            return True
    return False
