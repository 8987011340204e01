"""As `serverless_gpu.ray`: see `nbgpu.ranks.ray`."""

from __future__ import annotations

from nbgpu.ranks.ray import ray_init, ray_launch

__all__ = ["ray_init", "ray_launch"]
