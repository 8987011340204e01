"""Starts real Jupyter servers for tests: own folders, own port, own token, and nothing left behind."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_DEADLINE_S = 90.0
PATIENT_COMPLETER = {"providerTimeout": 60_000}
"""JupyterLab otherwise drops a completion that takes longer than a second, as the first one in a kernel may."""
NEWS_OFF = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


@dataclass(frozen=True)
class JupyterServer:
    url: str
    """Ends in a slash."""
    token: str
    work_folder: Path
    agent_folder: Path
    process: subprocess.Popen[bytes]
    log: Path


def isolated_environ(folder: Path) -> dict[str, str]:
    """Returns the environment of this process with every folder that Jupyter and nbgpu write to inside `folder`."""
    folders = {
        "HOME": "home",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
        "TMPDIR": "tmp",
        "NBGPU_AGENT_DIR": "agent",
    }
    for name in folders.values():
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_", "NBGPU_"))}
    return environ | {variable: str(folder / name) for variable, name in folders.items()}


@contextmanager
def run_jupyter_server(
    folder: Path, environ: Mapping[str, str], *, module: str = "jupyter_server", arguments: Sequence[str] = ()
) -> Iterator[JupyterServer]:
    """Runs `python -m MODULE` until the block ends; its environment is `isolated_environ(folder)` and `environ`."""
    token = secrets.token_hex(16)
    full_environ = isolated_environ(folder) | dict(environ)
    _write_json(folder / "config/labconfig/page_config.json", NEWS_OFF)
    user_settings = folder / "config/lab/user-settings/@jupyterlab"
    _write_json(user_settings / "completer-extension/manager.jupyterlab-settings", PATIENT_COMPLETER)
    work_folder = folder / "work"
    work_folder.mkdir(exist_ok=True)
    log = folder / "server.log"
    command = [
        sys.executable,
        "-m",
        module,
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        f"--IdentityProvider.token={token}",
        "--FileContentsManager.delete_to_trash=False",
        f"--ServerApp.root_dir={work_folder}",
        *arguments,
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=full_environ, cwd=work_folder, stdout=output, stderr=output)
    try:
        port = _wait_for_port(Path(full_environ["JUPYTER_RUNTIME_DIR"]), process, log)
        yield JupyterServer(
            f"http://127.0.0.1:{port}/", token, work_folder, Path(full_environ["NBGPU_AGENT_DIR"]), process, log
        )
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def _wait_for_port(runtime_folder: Path, process: subprocess.Popen[bytes], log: Path) -> int:
    info = runtime_folder / f"jpserver-{process.pid}.json"
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            port = int(json.loads(info.read_text())["port"])
            socket.create_connection(("127.0.0.1", port)).close()  # it is written down before anybody listens on it
            return port
        except (OSError, ValueError):
            time.sleep(0.05)
    raise RuntimeError(f"the Jupyter server did not start:\n{log.read_text()}")
