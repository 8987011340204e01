"""Writes the description of what the server extension answers to, from its handlers."""

from __future__ import annotations

from pathlib import Path

from nbgpu.server.routes import DESCRIPTION_FILE, description_text

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    (ROOT / "python/nbgpu/server" / DESCRIPTION_FILE).write_text(description_text(), encoding="utf-8")
