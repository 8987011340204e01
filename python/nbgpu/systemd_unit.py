"""The systemd unit of an agent, as text: `nbgpu agent systemd-unit` prints it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

NAME = "nbgpu.service"
_UNIT = """\
# {install}
[Unit]
Description=nbgpu: this machine's GPUs for notebooks
After=network-online.target nvidia-persistenced.service
Wants=network-online.target

[Service]
Type=notify
{user}Environment=HOME=%S/nbgpu UV_CACHE_DIR=%C/nbgpu/uv JUPYTER_CONFIG_DIR=%E/nbgpu PYTHONUNBUFFERED=1
# The token that clients need is made once, and readable by the service's user alone.
ExecStartPre=/bin/sh -c 'test -s "%S/nbgpu/token" || (umask 077; head -c 24 /dev/urandom | base64 > "%S/nbgpu/token")'
ExecStart={python} -m nbgpu_agent --folder=%S/nbgpu/agent --AgentApp.token_file=%S/nbgpu/token{arguments}
# SIGTERM has the agent close every session in order. Only it gets the signal: what a crash leaves running is for the
# next agent to find.
KillMode=process
TimeoutStopSec=60
Restart=on-failure
RestartSec=2
StateDirectory=nbgpu
CacheDirectory=nbgpu
# Passed by users on the way to what is theirs, and closed but for that.
StateDirectoryMode=0711
CacheDirectoryMode=0700
UMask=0077
# A session that runs out of memory takes neither the agent nor other sessions with it.
OOMPolicy=continue
LimitNOFILE=65536
# Pinned memory, and what RDMA registers.
LimitMEMLOCK=infinity
TasksMax=infinity
NoNewPrivileges=yes
ProtectSystem=full
ProtectKernelModules=yes
ProtectHostname=yes
RestrictSUIDSGID=yes
LockPersonality=yes
# Not here, and why: PrivateDevices, ProtectClock and DevicePolicy hide the GPUs; MemoryDenyWriteExecute stops compilers
# such as Triton's; PrivateTmp would part a new agent from the sockets of what it finds running;
# ProtectKernelTunables and ProtectKernelLogs cover parts of /proc, and with that, RestrictNamespaces and PrivateUsers,
# bwrap makes no sandboxes for sessions. What they protect no user but root can change.

[Install]
WantedBy={target}
"""
_USER = """\
# `useradd --system --groups video nbgpu` makes the user. Sessions of different users then run in sandboxes,
# where bwrap is installed. Without this line it runs as root, and they run as users of the system of their own.
User=nbgpu
"""


def unit(*, user: bool, arguments: Sequence[str] = (), python: str = sys.executable) -> str:
    """Returns the unit.

    Args:
        user: Of a person's own service manager, other than the machine's.
        arguments: Of the agent, beside its folder and the file of its token.
        python: That has nbgpu.
    """
    where, systemctl = ("~/.config/systemd/user", "systemctl --user") if user else ("/etc/systemd/system", "systemctl")
    return _UNIT.format(
        install=f"Save as {where}/{NAME}, then: {systemctl} daemon-reload && {systemctl} enable --now nbgpu",
        user="" if user else _USER,
        python=_quoted(python),
        arguments="".join(f" {_quoted(each)}" for each in arguments),
        target="default.target" if user else "multi-user.target",
    )


def _quoted(word: str) -> str:
    """Returns a word as systemd reads it: quoted, and with what it would replace doubled."""
    return shlex.quote(word).replace("%", "%%").replace("$", "$$")
