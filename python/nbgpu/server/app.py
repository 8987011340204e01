"""The Jupyter server extension `nbgpu.server`."""

from __future__ import annotations

from jupyter_server.extension.application import ExtensionApp

from nbgpu.server.handlers import EventsHandler, RetryHandler, StateHandler
from nbgpu.server.hub import Hub
from nbgpu.server.upstream import watch_agent


class NbgpuExtension(ExtensionApp):
    """Adds the handlers, and owns the hub behind them. Does nothing until a page asks."""

    name = "nbgpu"
    load_other_extensions = True

    def initialize_handlers(self) -> None:
        """Adds what is answered under `/nbgpu/api`."""
        self.hub = Hub(watch_agent, log=self.log)
        self.handlers.extend(
            [
                (r"/nbgpu/api/events", EventsHandler, {"hub": self.hub}),
                (r"/nbgpu/api/state", StateHandler, {"hub": self.hub}),
                (r"/nbgpu/api/retry", RetryHandler, {"hub": self.hub}),
            ]
        )

    async def stop_extension(self) -> None:
        """Ends the watch of the pool. The agent goes on: it outlives the Jupyter server."""
        await self.hub.close()
