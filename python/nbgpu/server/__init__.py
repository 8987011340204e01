"""The part of nbgpu inside the Jupyter server: passes the state of the pool on to the pages that are open."""

from __future__ import annotations

__all__: list[str] = []


def _jupyter_server_extension_points() -> list[dict[str, object]]:
    from nbgpu.server.app import NbgpuExtension

    return [{"module": "nbgpu.server", "app": NbgpuExtension}]
