"""`nbgpu.metrics()`: charts of the accelerators under a cell, wherever widgets are shown, fed from the agent."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib.util
from importlib import resources
from typing import Any

from nbgpu import errors
from nbgpu.client.background import background
from nbgpu.live_metrics.readings import live_rows, shown_accelerators
from nbgpu.live_metrics.table import newest_table
from nbgpu_protocol.v1 import pool_pb2

HISTORY_S = 60.0
_FIELDS = (
    "time_unix_s",
    "accelerator_id",
    "utilisation_percent",
    "memory_used_bytes",
    "memory_total_bytes",
    "power_watts",
    "temperature_celsius",
)
_RETRY_S = 2.0
_HINT = "`pip install nbgpu[widgets]` draws charts here"


class MetricsTable:
    """Stands in for the charts where there are no widgets."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def metrics() -> Any:
    """Returns live charts of this notebook's accelerators, or of the pool's if it holds none.

    They are drawn by the browser from what the agent measures once a second, go on while cells run, here or over
    there, and stop when nobody shows them or `close()` is called. Without anywidget it is a table of now.

    Raises:
        AgentUnreachableError: The agent does not answer.
        AgentStartError: This machine's agent did not start.
    """
    text = newest_table()
    if importlib.util.find_spec("anywidget") is None:
        return MetricsTable(f"{text}\n{_HINT}")
    return _make_widget(text)


def _make_widget(text: str) -> Any:
    import anywidget
    import traitlets

    folder = resources.files("nbgpu.live_metrics")

    class MetricsWidget(anywidget.AnyWidget):  # type: ignore[misc,unused-ignore]
        """The charts: what they are of, in `accelerators`; the samples come as messages, and are kept by nobody."""

        _esm = folder.joinpath("widget.js").read_text(encoding="utf-8")
        _css = folder.joinpath("widget.css").read_text(encoding="utf-8")
        accelerators = traitlets.List(traitlets.Dict()).tag(sync=True)
        problem = traitlets.Unicode("").tag(sync=True)

        def __init__(self) -> None:
            super().__init__()
            self.feed = Feed(self)
            self.on_msg(lambda _, content, __: self.feed.take(content))

        def _repr_mimebundle_(self, **options: Any) -> Any:
            bundle = super()._repr_mimebundle_(**options)
            data = bundle[0] if isinstance(bundle, tuple) else bundle
            if data is not None:
                data["text/plain"] = text
            return bundle

        def close(self) -> None:
            self.feed.stop()
            super().close()

    return MetricsWidget()


class Feed:
    """Sends a widget what the agent measures, on the background loop, while a front end shows it.

    So it goes on while the kernel runs a cell, as long as the cell's code lets other threads run.

    Args:
        widget: Has `accelerators`, `problem` and `send`.
    """

    def __init__(self, widget: Any) -> None:
        self._widget = widget
        self._task: concurrent.futures.Future[None] | None = None

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def take(self, content: Any) -> None:
        """Takes what the front end says: whether it shows the widget."""
        kind = content.get("kind") if isinstance(content, dict) else None
        if kind == "shown":
            self.stop()
            self._task = background().submit(self._run())
        elif kind == "hidden":
            self.stop()

    def stop(self) -> None:
        """Ends it. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        while True:
            problem = "The agent ended"
            try:
                await self._send_rows()
            except errors.Error as error:
                problem = error.message()
            except Exception as error:  # noqa: BLE001 - it is shown where the charts were
                problem = f"{type(error).__name__}: {error}"
            self._widget.problem = problem
            await asyncio.sleep(_RETRY_S)

    async def _send_rows(self) -> None:
        pool, accelerators = await shown_accelerators(start=False)  # a widget of an old notebook starts nothing
        self._widget.accelerators = [describe(each) for each in accelerators]
        self._widget.problem = ""
        async with contextlib.aclosing(live_rows(pool, accelerators, HISTORY_S)) as readings:
            async for rows in readings:
                self._widget.send({"kind": "samples", "samples": [{key: row[key] for key in _FIELDS} for row in rows]})


def describe(accelerator: pool_pb2.Accelerator) -> dict[str, Any]:
    """Returns what the charts say of an accelerator."""
    return {
        "id": accelerator.id,
        "index": accelerator.index,
        "type": accelerator.type,
        "simulated": accelerator.simulated,
    }
