"""A remote exception as it is raised here: its type, its frames, and what cannot be raised as it is."""

from __future__ import annotations

import atexit
import base64
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from nbgpu import remote_exceptions
from nbgpu.errors import RemoteError
from nbgpu.remote_exceptions import rebuild_exception

FRAMES = ["Traceback …", "ValueError: no good"]


class WithSlots(Exception):
    """An exception to which nothing can be added."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)


class Picky(Exception):
    """An exception that cannot be made again from its arguments."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Murderous(Exception):
    """An exception that raises another when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise ValueError('from the pickle')",)


def reply(error: BaseException, *, name: str = "", pickled: str | None = None) -> dict[str, Any]:
    return {
        "status": "error",
        "ename": name or type(error).__name__,
        "evalue": str(error),
        "traceback": FRAMES,
        "nbgpu_exception": base64.b64encode(pickle.dumps(error)).decode() if pickled is None else pickled,
    }


def rendered(error: BaseException) -> Any:
    return error._render_traceback_()  # type: ignore[attr-defined]


def test_a_type_that_is_here_is_raised() -> None:
    error = rebuild_exception(reply(FileNotFoundError(2, "No such file", "data.csv")), is_told=False)
    assert type(error) is FileNotFoundError
    assert error.filename == "data.csv"
    assert rendered(error) == FRAMES


def assert_stands_in(error: BaseException, name: str, value: str) -> None:
    assert isinstance(error, RemoteError)
    assert type(error).__name__ == name
    assert (error.ename, error.evalue, error.frames) == (name, value, FRAMES)
    assert rendered(error) == FRAMES
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, RemoteError)
    assert type(again).__name__ == name
    assert again.args == error.args


@pytest.mark.parametrize(
    "pickled",
    [
        "",
        "no base64!",
        base64.b64encode(b"no pickle").decode(),
        base64.b64encode(pickle.dumps("no exception")).decode(),
        base64.b64encode(b"\x80\x04\x8c\x0cno_such_here\x8c\x04Oops\x93.").decode(),
    ],
)
def test_what_cannot_be_unpickled_is_stood_in_for(pickled: str) -> None:
    error = rebuild_exception(reply(ValueError("no good"), name="ModelError", pickled=pickled), is_told=False)
    assert_stands_in(error, "ModelError", "no good")


def test_a_class_that_does_not_survive_its_pickle_is_stood_in_for() -> None:
    assert_stands_in(rebuild_exception(reply(Picky("no good", 3)), is_told=False), "Picky", "no good")
    assert_stands_in(rebuild_exception(reply(Murderous("no good")), is_told=False), "Murderous", "no good")


def test_a_pickle_of_another_exception_than_the_one_that_is_told_is_not_raised() -> None:
    error = rebuild_exception(reply(ValueError("no good"), name="KeyError"), is_told=False)
    assert_stands_in(error, "KeyError", "no good")


def test_a_type_with_slots_is_stood_in_for() -> None:
    assert_stands_in(rebuild_exception(reply(WithSlots("no good")), is_told=False), "WithSlots", "no good")


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, StopIteration, StopAsyncIteration])
def test_what_would_end_more_than_the_cell_is_stood_in_for(kind: type[BaseException]) -> None:
    assert_stands_in(rebuild_exception(reply(kind("no good")), is_told=False), kind.__name__, "no good")


def test_a_remote_interrupt_is_an_interrupt() -> None:
    assert type(rebuild_exception(reply(KeyboardInterrupt()), is_told=False)) is KeyboardInterrupt


def test_what_the_person_has_read_already_is_not_shown_again() -> None:
    error = rebuild_exception(reply(UsageError("unknown option")), is_told=True)
    assert type(error) is UsageError
    assert rendered(error) == []


def test_a_reply_that_says_little_is_an_error_all_the_same() -> None:
    error = rebuild_exception({"status": "error"}, is_told=False)
    assert isinstance(error, RemoteError)
    assert (error.ename, error.evalue, error.frames) == ("Error", "", [])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Any]:
    shell = InteractiveShell(ipython_dir=str(tmp_path), config=Config({"HistoryManager": {"enabled": False}}))
    yield shell
    shell.atexit_operations()
    atexit.unregister(shell.atexit_operations)


def show(shell: Any, error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    shell.showtraceback((type(error), error, None))
    told = capsys.readouterr()
    return told.out + told.err


@pytest.mark.parametrize("error", [ValueError("no good"), SyntaxError("no good"), UsageError("no good")])
def test_the_shell_shows_the_remote_frames_of_every_type(
    shell: Any, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    remote_exceptions.install(shell)
    shown = show(shell, rebuild_exception(reply(error), is_told=False), capsys)
    assert shown.strip() == "\n".join(FRAMES)
    assert show(shell, rebuild_exception(reply(error), is_told=True), capsys) == ""
    assert "no good" in show(shell, type(error)("no good"), capsys)


def test_the_shell_gets_its_own_way_back(shell: Any) -> None:
    before = shell.showtraceback
    remote_exceptions.install(shell)
    remote_exceptions.install(shell)
    assert shell.showtraceback != before
    remote_exceptions.uninstall(shell)
    assert shell.showtraceback == before
    remote_exceptions.uninstall(shell)


def test_nothing_to_show_is_said_as_always(shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    remote_exceptions.install(shell)
    shell.showtraceback()
    assert "No traceback available" in capsys.readouterr().err
