"""The audit log: who did what and when, as JSON lines that are added and never changed. No code, output or secret."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

from nbgpu_agent.accounting.allowances import OWNER_NAME
from nbgpu_agent.model import SessionInfo
from nbgpu_agent.observing import SessionObserver

logger = logging.getLogger(__name__)

AUDIT_FILE = "audit.jsonl"
MAX_BYTES = 16 << 20
NOBODY = "-"
"""Stands for the user of whom nothing is known."""
KEPT_FILES = 8
"""Those that are full, `audit.jsonl.1` the newest; what is older is removed."""


class AuditLog:
    """One line an event, in a file that is its owner's alone. What cannot be written is said in the agent's log.

    Args:
        path: Of the file.
        now: The time by the machine's clock, in seconds since the epoch.
        max_bytes: After which another file is begun.
    """

    def __init__(self, path: Path, now: Callable[[], float], max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._now = now
        self._max_bytes = max_bytes
        self._is_failing = False

    def record(self, event: str, user: str, **facts: str | float | list[str] | None) -> None:
        """Adds a line, which is on its way to the disk when this returns.

        Args:
            event: What happened, such as "session_opened" or "token_revoked".
            user: Who did it; empty: the agent's owner.
            facts: Its values; None is left out.
        """
        at = datetime.fromtimestamp(self._now(), timezone.utc).isoformat(timespec="milliseconds")
        known = {name: value for name, value in facts.items() if value is not None}
        line = json.dumps({"time": at, "event": event, "user": user or OWNER_NAME, **known}, ensure_ascii=False) + "\n"
        try:
            self._add(line.encode(errors="backslashreplace"))
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:
                logger.error("the audit log %s cannot be written: %s", self._path, error.strerror)
            self._is_failing = True

    def _add(self, line: bytes) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.fstat(file).st_size + len(line) > self._max_bytes:
                os.close(file)
                self._rotate()
                flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
                file = os.open(self._path, flags, 0o600)
            os.write(file, line)  # in one piece: two lines are never mixed
        finally:
            os.close(file)

    def _rotate(self) -> None:
        for number in range(KEPT_FILES - 1, -1, -1):
            older = self._path.with_name(f"{self._path.name}.{number + 1}")
            newer = self._path.with_name(f"{self._path.name}.{number}") if number else self._path
            with contextlib.suppress(FileNotFoundError):
                newer.replace(older)


class AccessAudit:
    """Records who got in by an invitation, and who was not let in."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def paired(self, user: str, client: str, address: str) -> None:
        """A client exchanged a code for a token of the user."""
        self._log.record("paired", user, client=client, address=address)

    def refused(self, address: str, reason: str) -> None:
        """A request had no token, or code, that is good."""
        self._log.record("refused", NOBODY, address=address, reason=reason)


class SessionAudit(SessionObserver):
    """Records the lives of sessions.

    Args:
        log: The log.
        now: The time by which sessions were made.
    """

    def __init__(self, log: AuditLog, now: Callable[[], float]) -> None:
        self._log = log
        self._now = now

    def session_ready(self, info: SessionInfo) -> None:
        held = info.lease.accelerators if info.lease else ()
        self._log.record(
            "session_opened",
            info.request.owner,
            session=info.id,
            notebook=info.request.notebook_name or None,
            asked=info.request.spec.text if info.request.spec else None,
            accelerators=[each.id for each in held],
        )

    def session_attached(self, info: SessionInfo) -> None:
        event = "session_attached" if info.request.notebook_id else "session_detached"
        self._log.record(event, info.request.owner, session=info.id, notebook=info.request.notebook_name or None)

    def session_ended(self, info: SessionInfo, reason: str) -> None:
        self._log.record(
            "session_closed",
            info.request.owner,
            session=info.id,
            notebook=info.request.notebook_name or None,
            reason=reason,
            open_s=round(max(self._now() - info.created_unix_s, 0.0), 3),
            accelerator_s=round(info.accelerator_seconds, 3),
            executions=float(info.executions),
        )
