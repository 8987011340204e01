"""An agent whose machine's clock is set, by hours, while a cell runs."""

from __future__ import annotations

from pathlib import Path

from faults.scenes import Place, Scene

JUMP_S = 100 * 3600.0
"""Longer than any span of the agent's below."""
OPTIONS = ("--max-session=48h", "--idle-close=1h", "--AgentApp.lease_duration_s=86400")
_VARIABLE = "NBGPU_FAULTS_CLOCK"
_PROGRAM = f"""
import os, time
_real, _file = time.time, os.environ["{_VARIABLE}"]

def set_time():
    with open(_file) as file:
        return _real() + float(file.read())

time.time = set_time
from nbgpu_agent.app import main
main()
"""


def with_own_clock(place: Place) -> None:
    """Gives an agent that is not started yet a clock that can be set."""
    place.options, place.program = OPTIONS, _PROGRAM
    place.environment[_VARIABLE] = str(place.workplace.root / "clock")
    _file(place).write_text("0")


async def set_forwards(scene: Scene) -> None:
    """Sets the clock forwards by days."""
    set_clock(scene.place, JUMP_S)


async def set_backwards(scene: Scene) -> None:
    """Sets the clock back by days."""
    set_clock(scene.place, -JUMP_S)


def set_clock(place: Place, change_s: float) -> None:
    """Sets the clock of the place's agent, by so much more."""
    path = _file(place)
    new = path.with_name("clock.new")
    new.write_text(str(float(path.read_text()) + change_s))
    new.replace(path)


def _file(place: Place) -> Path:
    return Path(place.environment[_VARIABLE])
