"""A call goes to another process as a file, with what its function reads, and results come back the same way."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from nbgpu_kernel.ranks.message_file import read_values, write_values
from nbgpu_kernel.ranks.payload import UnsendableError, read_call, write_call
from nbgpu_kernel.values.definitions import Definitions


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Definitions:
    """A namespace in which code runs as in cells."""
    return definitions_of(monkeypatch)


def definitions_of(monkeypatch: pytest.MonkeyPatch) -> Definitions:
    main = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    return Definitions(main.__dict__)


def test_a_function_has_there_what_it_reads_and_no_more(
    session: Definitions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = session.namespace
    exec(
        "import json, xml.dom.minidom\n"
        "import threading\n"
        "class Kept:\n    def get(self):\n        return scale\n"
        "scale = 3\nunread = threading.Lock()\nshared = [1]\nalso = {'shared': shared}\n"
        "def helper(v):\n    return v * scale\n"
        "def work(kept, *, extra):\n"
        "    also['shared'].append(2)\n"
        "    return helper(kept.get()) + extra, shared, json.dumps({}), xml.dom.minidom.__name__\n",
        here,
    )
    path = tmp_path / "payload"
    write_call(path, here["work"], [here["Kept"]()], {"extra": 1}, session, {})
    there = definitions_of(monkeypatch)
    function, args, kwargs = read_call(path, there)
    assert function(*args, **kwargs) == (10, [1, 2], "{}", "xml.dom.minidom")
    assert here["shared"] == [1]
    assert "unread" not in there.namespace
    assert type(args[0]).__name__ == "Kept"


def test_names_of_ipython_and_hidden_ones_stay(session: Definitions, tmp_path: Path) -> None:
    here = session.namespace
    exec("def work():\n    return get_ipython, shown, open\n", here)
    lock = threading.Lock()
    here.update({"get_ipython": lock, "shown": lock, "open": open})
    write_call(tmp_path / "payload", here["work"], [], {}, session, {"shown": lock})
    _, message = read_values(tmp_path / "payload", session, namespace={})
    assert [parcel["names"] for parcel in message["parcels"]] == [["\0call"]]


def test_what_cannot_be_sent_is_named_with_who_reads_it(session: Definitions, tmp_path: Path) -> None:
    here = session.namespace
    exec("import threading\nlock = threading.Lock()\ndef inner():\n    return lock\ndef work():\n    inner()\n", here)
    with pytest.raises(UnsendableError, match=r"`lock`, which `inner` reads, cannot be sent to the ranks: TypeError"):
        write_call(tmp_path / "payload", here["work"], [], {}, session, {})
    here["lock"] = ModuleType("by_hand")
    with pytest.raises(UnsendableError, match="`lock` is a module that cannot be imported in the ranks"):
        write_call(tmp_path / "payload", here["work"], [], {}, session, {})
    assert not (tmp_path / "payload").exists()


def test_a_large_array_is_in_the_file_once_and_can_be_written_to(session: Definitions, tmp_path: Path) -> None:
    path = tmp_path / "values"
    big = np.arange(1_000_000)
    write_values(path, {"big": big, "view": big[1:]}, session, note="n")
    # numpy pickles a view by its own bytes.
    assert big.nbytes * 2 < path.stat().st_size < big.nbytes * 2 + 10_000
    first, message = read_values(path, session)
    second, _ = read_values(path, session)
    first["big"][0] = -1
    assert message["note"] == "n"
    assert second["big"][0] == 0
    assert (second["big"] == big).all()


def test_an_instance_comes_back_as_one_of_the_class_that_is_here(session: Definitions, tmp_path: Path) -> None:
    exec("class Own(Exception):\n    pass\n", session.namespace)
    own: Any = session.namespace["Own"]
    write_values(tmp_path / "error", {"error": own("text")}, session)
    found, _ = read_values(tmp_path / "error", session)
    assert type(found["error"]) is own
    json.dumps(found["error"].args)
