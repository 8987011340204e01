"""The Jupyter server extension `nbgpu.server`."""

from __future__ import annotations

from jupyter_server.extension.application import ExtensionApp

from nbgpu.server.hub import Hub
from nbgpu.server.routes import patterns


class NbgpuExtension(ExtensionApp):
    """Adds the handlers, and owns the hub behind them. Does nothing until a page asks."""

    name = "nbgpu"
    load_other_extensions = True

    def initialize_handlers(self) -> None:
        """Adds what is answered under `/nbgpu/api`."""
        self.hub = Hub(log=self.log)
        self.handlers.extend([(pattern, handler, {"hub": self.hub}) for pattern, handler in patterns()])

    async def stop_extension(self) -> None:
        """Ends the connections to the pools. The agents go on: they outlive the Jupyter server."""
        await self.hub.close()
