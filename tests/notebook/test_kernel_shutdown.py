"""Interrupts with which a front end begins to shut the notebook's kernel down, and those of a person."""

from __future__ import annotations

import pytest

from nbgpu import interruption
from nbgpu.kernel_shutdown import NotebookEndingError, ShutdownWatch


class Kernel:
    def __init__(self) -> None:
        self.shut_down: list[bool] = []

    def do_shutdown(self, restart: bool) -> dict[str, str]:
        self.shut_down.append(restart)
        return {"status": "ok"}


def test_a_shutdown_is_heard_of_and_takes_place() -> None:
    kernel = Kernel()
    watch = ShutdownWatch(kernel)
    assert not watch.is_asked_within(0)
    assert kernel.do_shutdown(True) == {"status": "ok"}
    assert kernel.shut_down == [True]
    assert watch.is_asked_within(0)
    assert interruption._is_ending(watch)


def test_who_interrupts_again_meanwhile_is_a_person() -> None:
    class Pressed(ShutdownWatch):
        def is_asked_within(self, seconds: float) -> bool:
            raise KeyboardInterrupt

    assert not interruption._is_ending(Pressed(Kernel()))


def test_without_a_jupyter_kernel_an_interrupt_is_a_persons() -> None:
    assert not interruption._is_ending(None)


def test_it_is_shown_as_an_interrupt_in_one_line() -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        raise NotebookEndingError("the cell goes on")
    (line,) = raised.value._render_traceback_()  # type: ignore[attr-defined]
    assert line.endswith("KeyboardInterrupt\x1b[0m: the cell goes on")
