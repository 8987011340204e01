"""What the agent is told of a cell beside its code, so that its output can be shown again under that cell."""

from __future__ import annotations

import hashlib
import json
import sys
from types import TracebackType
from typing import Any

MAX_SHOWN_CHARACTERS = 16 << 10


def source_digest(source: str) -> str:
    """Returns the digest by which a cell's text is told from what it was before or after."""
    return f"sha256:{hashlib.sha256(source.encode(errors='surrogatepass')).hexdigest()}"


class CellRecord:
    """A cell that runs as a whole in a session, and what is shown under it here before its code is sent.

    As a context manager it takes down what is written to standard error, until `take`.

    Args:
        source: The cell as the front end sent it; empty where there is none.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self._outputs: list[dict[str, Any]] = []
        self._stream: Any = None

    def __enter__(self) -> CellRecord:
        self._stream = sys.stderr
        sys.stderr = _Tee(self._stream, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frames: TracebackType | None
    ) -> None:
        if isinstance(sys.stderr, _Tee) and self._stream is not None:
            sys.stderr = self._stream
        self._stream = None

    def note_text(self, text: str) -> None:
        """Notes what was written to standard error."""
        last = self._outputs[-1] if self._outputs else None
        if last is not None and last["output_type"] == "stream":
            last["text"] += text
        elif text:
            self._outputs.append({"output_type": "stream", "name": "stderr", "text": text})

    def note_display(self, data: dict[str, Any]) -> None:
        """Notes what was displayed."""
        self._outputs.append({"output_type": "display_data", "data": data, "metadata": {}})

    def note_cleared(self) -> None:
        """Notes that nothing is shown any more."""
        self._outputs.clear()

    def take(self) -> dict[str, str]:
        """Returns what goes with the request's metadata, and takes no more down."""
        self.__exit__(None, None, None)
        if not self._source:
            return {}
        shown = json.dumps(self._outputs) if self._outputs else ""
        record = {"source_digest": source_digest(self._source)}
        return record | ({"shown_before": shown} if 0 < len(shown) <= MAX_SHOWN_CHARACTERS else {})


class _Tee:
    """A stream that its record hears too; in all else the stream itself."""

    def __init__(self, stream: Any, record: CellRecord) -> None:
        self._stream = stream
        self._record = record

    def write(self, text: str) -> Any:
        self._record.note_text(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
