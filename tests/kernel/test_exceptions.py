"""Exceptions that leave the kernel: whole, or not at all."""

import base64
import pickle
import threading

from nbgpu_kernel.exceptions import MAX_PICKLE_BYTES, pack_exception, qualified_name


class CodedError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")  # not what __init__ takes: unpickles wrongly by itself
        self.code = code

    def __reduce__(self):
        return CodedError, (self.code,)


class TwoArgumentsError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def unpacked(error: BaseException) -> BaseException:
    packed = pack_exception(error)
    assert packed is not None
    return pickle.loads(base64.b64decode(packed))


def test_cause_context_notes_and_attributes_come_along() -> None:
    try:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise OSError(2, "second", "file")  # noqa: B904
        except OSError as error:
            raise CodedError(7) from error
    except CodedError as error:
        error.__notes__ = ["look here"]  # add_note, from Python 3.11 on
        found = unpacked(error)
    assert type(found) is CodedError
    assert found.code == 7
    assert found.__notes__ == ["look here"]
    assert found.__suppress_context__ is True
    assert type(found.__cause__) is FileNotFoundError
    assert found.__cause__.filename == "file"
    assert found.__cause__.__cause__ is None
    assert repr(found.__cause__.__context__) == "KeyError('first')"
    assert found.__traceback__ is None
    assert found.__context__ is found.__cause__


def test_attributes_that_were_set_come_along() -> None:
    error = ValueError("v")
    error.extra = {"a": [1, 2]}
    assert unpacked(error).extra == {"a": [1, 2]}


def test_suppressed_contexts_stay_suppressed() -> None:
    try:
        try:
            raise KeyError("hidden")
        except KeyError:
            raise ValueError("shown") from None
    except ValueError as error:
        found = unpacked(error)
    assert found.__suppress_context__ is True
    assert found.__cause__ is None


def test_what_cannot_travel_does_not() -> None:
    assert pack_exception(ValueError(threading.Lock())) is None
    assert pack_exception(TwoArgumentsError("a", "b")) is None  # pickles, and does not unpickle
    assert pack_exception(ValueError("x" * MAX_PICKLE_BYTES)) is None


def test_an_exception_travels_without_a_cause_that_cannot() -> None:
    error = ValueError("fine")
    error.__cause__ = ValueError(threading.Lock())
    found = unpacked(error)
    assert found.args == ("fine",)
    assert found.__cause__ is None


def test_an_exception_of_a_cell_brings_its_class() -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    exec("class CellError(Exception): pass", namespace)
    error_class = namespace["CellError"]
    assert isinstance(error_class, type)
    found = unpacked(error_class("mine"))
    assert type(found).__name__ == "CellError"
    assert found.args == ("mine",)
    assert qualified_name(error_class()) == "__main__.CellError"


def test_groups_and_cycles() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__context__, two.__context__ = two, one
    found = unpacked(one)
    assert found.__context__ is not None
    assert found.__context__.__context__ is found
