"""A session of another minor version of Python: plain data goes to and fro, and what is compiled stays where it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fakes.two_sides import TwoSides
from nbgpu.values.errors import PythonMismatchError
from nbgpu.values.handle import Handle
from nbgpu_kernel.values.session_values import SessionValues


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TwoSides:
    made = TwoSides(tmp_path / "blobs")
    made.synchroniser._departures._python_version = lambda: "2.7.18"
    encode = SessionValues._pack

    def of_another_python(self: SessionValues, *args: object) -> object:
        content, buffers = encode(self, *args)  # type: ignore[arg-type]
        return {**content, "python": [2, 7]}, buffers

    monkeypatch.setattr(SessionValues, "_pack", of_another_python)
    return made


def test_data_goes_to_and_fro(sides: TwoSides) -> None:
    sides.local("import numpy as np\nx = {'a': [1, None]}\narray = np.arange(3000.0)")
    sides.gpu("y = [x, array * 2]")
    assert sides.here["y"][0] == {"a": [1, None]}
    assert np.array_equal(sides.here["y"][1], np.arange(3000.0) * 2)


def test_functions_and_classes_stay_on_either_side(sides: TwoSides) -> None:
    sides.local("def f(): return 1")
    with pytest.raises(PythonMismatchError, match="`f` holds what Python") as caught:
        sides.gpu("f()")
    assert "define it in a `%%gpu` cell" in str(caught.value)
    sides.gpu("def g(): return 7\nclass C: pass\nc, seven = C(), g()")
    assert sides.here["seven"] == 7
    assert [name for name in ("g", "C", "c") if not isinstance(sides.here[name], Handle)] == []
    sides.gpu("again = g()")  # a handle is used as what it stands for
    assert sides.here["again"] == 7
