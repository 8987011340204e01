"""The token by which clients are let in: configured, or made for this run."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import MutableMapping
from pathlib import Path

from nbgpu_agent.errors import InvalidRequestError

TOKEN_VARIABLE = "NBGPU_AGENT_TOKEN"
MIN_TOKEN_CHARACTERS = 16


def new_token() -> str:
    return secrets.token_urlsafe(32)


def configured_token(environ: MutableMapping[str, str], token_file: str) -> str | None:
    """Returns the token of the environment or of the file, or None where there is neither.

    The environment forgets it, so that nothing that the agent starts inherits it.

    Raises:
        InvalidRequestError: It is too short, or the file can be read by others or not at all.
    """
    token = environ.pop(TOKEN_VARIABLE, "").strip()
    source = TOKEN_VARIABLE
    if not token and token_file:
        token, source = _read_token(Path(token_file)), token_file
    if not token:
        return None
    if len(token) < MIN_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidRequestError(
            f"the token of {source} is shorter than {MIN_TOKEN_CHARACTERS} characters, or not plain ASCII",
            "make one: `python -c 'import secrets; print(secrets.token_urlsafe(32))'`",
        )
    return token


def _read_token(path: Path) -> str:
    try:
        with path.open() as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
                raise InvalidRequestError(f"others can read the token in {path}", f"`chmod 600 {path}`")
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"the token file {path} cannot be read: {error}") from error
    if not token:
        raise InvalidRequestError(f"the token file {path} is empty")
    return token
