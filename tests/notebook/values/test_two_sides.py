"""What two sides have after cells on either, without kernels: nothing is lost, nothing is written back wrongly."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.two_sides import TwoSides
from nbgpu.values.errors import InputError, TooLargeError
from nbgpu.values.handle import Handle
from nbgpu_kernel.values.session_values import Bound, SessionValues

LARGE = 20_000_000


@pytest.fixture
def sides(tmp_path: Path) -> TwoSides:
    return TwoSides(tmp_path / "blobs")


def parcels(sides: TwoSides, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Returns a list that takes the names of every parcel that is sent from now on."""
    found: list[list[str]] = []
    bind = SessionValues.bind

    def spy(self: SessionValues, request: Any, *args: Any) -> Bound:
        found.extend(parcel["names"] for parcel in request.get("parcels", ()))
        return bind(self, request, *args)

    monkeypatch.setattr(SessionValues, "bind", spy)
    return found


# -- What is bound -------------------------------------------------------------------------------------------------


def test_a_small_number_comes_back_although_the_session_had_it_before(sides: TwoSides) -> None:
    sides.gpu("x = 5")
    sides.local("x = 1")
    sides.gpu("x = 5")
    assert sides.here["x"] == 5


def test_a_notebook_that_was_restarted_gets_what_the_session_had_before(sides: TwoSides) -> None:
    sides.gpu("x = 5\nfor i in range(3): pass")
    del sides.here["x"], sides.here["i"]
    sides.client_id = "notebook-2"
    sides.attach()
    sides.gpu("x = 5\nfor i in range(3): pass")
    assert (sides.here["x"], sides.here["i"]) == (5, 2)


def test_what_a_cell_does_not_bind_does_not_overwrite_the_notebook(sides: TwoSides) -> None:
    sides.gpu("x = 5\ny = [1]")
    sides.local("x = 7\ny = [2]")
    sides.gpu("if False:\n    x = 0\n    y = 0")
    assert (sides.here["x"], sides.here["y"]) == (7, [2])


def test_a_large_dict_that_is_made_anew_at_the_same_place_comes_back(sides: TwoSides) -> None:
    sides.local("items = {i: 'first' for i in range(200_000)}")
    sides.gpu("len(items)")
    for number in range(5):
        sides.gpu(f"length = len(items)\nitems = None\nitems = {{i: {number} for i in range(200_000)}}")
        assert sides.here["items"][0] == number


def test_what_a_cell_lets_go_is_let_go(sides: TwoSides) -> None:
    sides.local("class Thing: pass\nthings = [Thing() for _ in range(500_000)]")
    sides.gpu("import weakref\nalive = weakref.ref(things[0])")
    assert sides.there["alive"]() is not None
    sides.gpu("globals()['things'] = None\nx = 1")
    gc.collect()
    assert sides.there["alive"]() is None


def test_a_private_name_that_the_session_rebinds_is_the_notebooks_in_the_next_cell(sides: TwoSides) -> None:
    sides.local("_mine = [1]\nbig = list(range(10))")
    sides.gpu("_mine\nbig\n_mine = [2]")
    sides.gpu("seen = _mine")
    assert sides.here["seen"] in ([1], [2])
    assert sides.here["_mine"] == [1]


def test_deleting_there_what_was_sent_has_only_that_sent_again(
    sides: TwoSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides.local("a = [1]\nb = [2]")
    sides.gpu("a, b\ndel a")
    sent = parcels(sides, monkeypatch)
    sides.gpu("total = a + b")
    assert sides.here["total"] == [1, 2]
    assert sent == [["a"]]


# -- What is changed in place --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "change", "look"),
    [
        ("v = np.zeros(500_000)", "v[77_777] = 1", "v[77_777]"),
        ("v = np.zeros(500_000)", "v += 1", "v[0]"),
        ("v = np.zeros(500_000)", "change(v)", "v[0]"),
        ("v = [0.5] * 200_000", "v.append(1)", "v[-1]"),
        ("v = [0.5] * 200_000", "v[77_777] = 1", "v[77_777]"),
        ("v = {i: 0 for i in range(200_000)}", "v[200_001] = 1", "v[200_001]"),
        ("v = bytearray(3_000_000)", "v[77_777] = 1", "v[77_777]"),
    ],
)
@pytest.mark.parametrize("was_there", [False, True])
def test_what_is_larger_than_a_mebibyte_comes_back_too(
    sides: TwoSides, was_there: bool, make: str, change: str, look: str
) -> None:
    sides.local(f"import numpy as np\n{make}\nalias = v\ndef change(array): array += 1")
    if was_there:
        sides.gpu("length = len(v)")
    sides.gpu(change)
    assert eval(look, sides.here) == 1
    assert sides.here["alias"] is sides.here["v"]
    assert sides.said == []


def test_what_is_too_large_to_come_back_is_told_once_and_stays_as_it_was(sides: TwoSides) -> None:
    sides.local(f"import numpy as np\nv = np.zeros({LARGE})")
    sides.gpu("v[12_345_678] = 1")
    assert sides.said[1:] == [
        "`v` was changed in the session, and is too large to come back by itself (160 MB): it is as it was here; "
        "`%gpu pull v` brings it"
    ]
    assert sides.here["v"].sum() == 0
    assert isinstance(sides.here["v"], np.ndarray)
    sides.gpu("total = v.sum()")
    assert sides.here["total"] == 1  # the session's own, as the line said
    assert len(sides.said) == 2
    sides.gpu("v[5] = 1")
    assert len(sides.said) == 3
    sides.exchange.pull(["v"])
    assert sides.here["v"].sum() == 2


def test_what_became_unpicklable_is_told_and_stays_as_it_was(sides: TwoSides) -> None:
    sides.local("v = [1]")
    sides.gpu("v.append(i for i in ())")
    assert sides.here["v"] == [1]
    assert sides.said == [
        "`v` was changed in the session, and cannot come back (TypeError: cannot pickle 'generator' object): "
        "it is as it was here; `%gpu pull v` brings it"
    ]


def test_values_that_share_only_their_types_do_not_travel_together(
    sides: TwoSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides.local(
        "import numpy as np, pandas as pd\na, b = np.zeros(10), np.ones(10)\nf, g = pd.DataFrame(), pd.Series([1])"
    )
    sides.gpu("a, b, f, g")
    sides.local("b[0] = 7")
    sent = parcels(sides, monkeypatch)
    sides.gpu("total = a.sum() + b.sum() + len(f) + len(g)")
    assert sent == [["b"]]


# -- Handles -------------------------------------------------------------------------------------------------------


def test_an_object_lives_as_long_as_any_handle_of_it(sides: TwoSides) -> None:
    sides.gpu("import threading\nlock = threading.Lock()")
    sides.gpu("same = lock")
    assert sides.here["same"] is sides.here["lock"]
    del sides.here["same"]
    gc.collect()
    sides.gpu("held = lock.locked()")
    sides.gpu("held = lock.locked()")
    assert sides.here["held"] is False


def test_an_object_that_comes_again_while_its_handle_is_released_is_kept(sides: TwoSides) -> None:
    sides.gpu("import threading\nlock = threading.Lock()\n_alias = lock")

    def forget() -> None:
        sides.here.pop("lock", None)
        gc.collect()

    sides.before_reply = forget
    sides.gpu("again = _alias")
    sides.before_reply = lambda: None
    sides.local("other = again")
    sides.gpu("held = other.locked()")
    assert sides.here["held"] is False


def test_an_object_is_kept_for_each_notebook_that_has_a_handle(sides: TwoSides) -> None:
    sides.gpu("import threading\nlock = threading.Lock()")
    content, _ = sides.values.collect({"force": ["lock"], "limit_bytes": 1}, "another")
    assert [*content["handles"]] == ["lock"]
    del sides.here["lock"]
    gc.collect()
    sides.gpu("x = 1")
    assert content["handles"]["lock"]["id"] in sides.values._objects.by_id


def test_objects_of_a_notebook_that_is_gone_are_let_go(sides: TwoSides) -> None:
    sides.gpu(f"stays = bytes({LARGE})\nother = (i for i in ())")
    assert len(sides.values._objects.by_id) == 2
    assert isinstance(sides.here["stays"], Handle)
    sides.here.clear()
    sides.client_id = "notebook-2"
    sides.attach()
    sides.gpu("fresh = 1")
    assert sides.values._objects.by_id == {}


# -- Faults --------------------------------------------------------------------------------------------------------


def test_a_small_value_that_grew_is_refused_like_a_new_one(sides: TwoSides) -> None:
    sides.local("import numpy as np\nx = 1")
    sides.gpu("x")
    sides.local("import mmap\nspace = mmap.mmap(-1, 2_000_000_000)\nx = np.frombuffer(space, 'u1')")
    with pytest.raises(TooLargeError, match=r"the cell would send 2\.0 GB: `x`"):
        sides.gpu("x")
    assert sides.files_left == []
    assert sides.there["x"] == 1


def test_what_a_refused_cell_left_in_the_store_is_removed(sides: TwoSides) -> None:
    sides.local(f"blob = bytes({LARGE})\nsmall = [1]")
    sides.gpu("small")
    del sides.there["small"]
    sides.gpu("small, blob")  # refused as stale first, before the blob is taken
    assert sides.files_left == []


def test_a_full_store_leaves_results_as_handles(sides: TwoSides, monkeypatch: pytest.MonkeyPatch) -> None:
    sides.local("kept = [1]")
    sides.gpu("kept")
    lend = sides.files.lend
    calls = iter([lend])

    def full(part: Any, *args: Any) -> str:
        if (found := next(calls, None)) is not None:
            return found(part, *args)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sides.files, "lend", full)
    sides.gpu("kept.append(2)\nmade = bytes(1_000_000), bytes(900_000)\nother = bytes(800_000)")
    assert isinstance(sides.here["made"], Handle)
    assert isinstance(sides.here["other"], Handle)
    assert sides.here["kept"] == [1]
    assert "`made` stays in the session, and is a handle here: OSError: [Errno 28] No space left" in sides.said[0]
    assert sides.files_left == []
    monkeypatch.undo()
    sides.gpu("total = len(other) + len(kept)")
    assert (sides.here["total"], sides.here["kept"]) == (800_002, [1, 2])


def test_results_that_are_gone_before_they_are_fetched_are_handles(sides: TwoSides) -> None:
    def evict() -> None:
        for each in sides.folder.iterdir():
            each.unlink()

    sides.gpu("warm = 1")
    sides.before_reply = evict
    sides.gpu("made = bytes(1_000_000)\nsmall = 1")
    sides.before_reply = lambda: None
    assert isinstance(sides.here["made"], Handle)
    assert isinstance(sides.here["small"], (int, Handle))
    assert any("`made` stays in the session" in each for each in sides.said)
    sides.gpu("length = len(made)")
    assert sides.here["length"] == 1_000_000


def test_the_third_of_five_results_that_cannot_be_put_together_is_a_handle(sides: TwoSides) -> None:
    here = os.getpid()
    sides.gpu(
        "class Odd:\n"
        "    def __setstate__(self, state): raise ValueError('not with me')\n"
        "one, two, three, four, five = 1, [2], Odd(), {4}, 'five'\nthree.a = 1"
    )
    assert [sides.here[name] for name in ("one", "two", "four", "five")] == [1, [2], {4}, "five"]
    assert isinstance(sides.here["three"], Handle)
    assert sides.said == [
        "`three` stays in the session, and is a handle here: it cannot be put together here (ValueError: not with me)"
    ]
    assert os.getpid() == here


def test_a_definition_that_did_not_arrive_is_sent_again(sides: TwoSides) -> None:
    sides.local("class C:\n    n = 1\nc = C()")
    sides.gpu("seen = c.n")
    sides.local("C.n = 2")
    bind = sides.values.bind

    def interrupted(*_: Any) -> Bound:
        raise KeyboardInterrupt

    sides.values.bind = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        sides.gpu("seen = c.n")
    sides.values.bind = bind  # type: ignore[method-assign]
    sides.gpu("seen = c.n")
    assert sides.here["seen"] == 2


def test_an_input_that_cannot_be_put_together_changes_nothing(sides: TwoSides) -> None:
    sides.local(
        "class Odd:\n    def __setstate__(self, state): raise ValueError('not with me')\n"
        f"a, odd, z = 1, Odd(), bytes({LARGE})\nodd.x = 1"
    )
    before = dict(sides.there)
    with pytest.raises(InputError, match="`odd` cannot be put together in the session: ValueError: not with me"):
        sides.gpu("a, odd, z\nran = 1")
    assert sides.there == before
    assert "ran" not in sides.here
    assert sides.files_left == []


def test_closures_over_arrays(sides: TwoSides) -> None:
    sides.local(
        "import numpy as np\ndef make():\n    table = np.arange(4)\n    return lambda: table.sum()\ntotal = make()"
    )
    sides.gpu("found = int(total())")
    assert sides.here["found"] == 6


# -- What is one object here ---------------------------------------------------------------------------------------

TORCH = "import torch\nfrom torch import nn\n"


def test_names_that_the_cell_does_not_read_stay_names_of_what_it_changes(sides: TwoSides) -> None:
    sides.local("class T: pass\nclass M: pass\nmodel, trainer = M(), T()\nmodel.n, trainer.model = 1, model")
    sides.local("items = [1]; alias = items; held = {'i': items}")
    sides.gpu("trainer.model.n = 2\nitems.append(2)")
    sides.local("found = trainer.model is model, model.n, alias is items, held['i'] is items, items")
    assert sides.here["found"] == (True, 2, True, True, [1, 2])


def test_another_name_of_what_is_read_counts_for_nothing(sides: TwoSides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbgpu.values.outgoing.REFUSE_BYTES", 1_000_000)
    sides.local("import numpy as np; x = np.zeros(600_000, 'u1'); y = x")
    sides.gpu("x[0] = 1")
    assert sides.here["y"] is sides.here["x"]
    assert sides.here["y"][0] == 1


def test_other_names_stay_here_where_values_are_given_or_pushed(sides: TwoSides) -> None:
    sides.local("x = [1]; y = x")
    sides.exchange.push(["x"])
    assert "y" not in sides.there
    found = sides.exchange.run_with("g.append(2)", {"g": sides.here["x"]}, ["g"], lambda request: request.finish())
    assert found == {"g": [1, 2]}
    assert "y" not in sides.there


def test_an_optimiser_that_a_cell_does_not_read_keeps_its_model(sides: TwoSides) -> None:
    sides.local(TORCH + "model = nn.LSTM(2, 3)\noptimiser = torch.optim.SGD(model.parameters(), lr=1.0)")
    sides.gpu("with torch.no_grad():\n    for each in model.parameters(): each.fill_(0.5)")
    sides.local(
        "kept = [a is b for a, b in zip(optimiser.param_groups[0]['params'], model.parameters(), strict=True)]\n"
        "filled = model.weight_ih_l0[0, 0].item(), model._flat_weights[0] is model.weight_ih_l0\n"
        "model(torch.ones(4, 1, 2))[0].sum().backward(); optimiser.step()\n"
        "trained = bool((model.weight_ih_l0 != 0.5).any())"
    )
    assert (sides.here["kept"], sides.here["filled"], sides.here["trained"]) == ([True] * 4, (0.5, True), True)


def test_a_model_that_a_cell_does_not_read_has_what_its_optimiser_did(sides: TwoSides) -> None:
    sides.local(TORCH + "model = nn.Linear(2, 1)\noptimiser = torch.optim.SGD(model.parameters(), lr=1.0)")
    sides.gpu("for each in optimiser.param_groups[0]['params']: each.data.fill_(7)")
    assert sides.here["model"].weight.tolist() == [[7, 7]]
    assert sides.here["model"].weight is sides.here["optimiser"].param_groups[0]["params"][0]


def test_a_parameter_of_another_shape_is_another(sides: TwoSides) -> None:
    sides.local(TORCH + "model = nn.Linear(2, 1); before = model.weight, model.bias; _before = before[0].clone()")
    sides.gpu("model.weight = nn.Parameter(torch.ones(1, 3))\nmodel.bias.requires_grad_(False)")
    model, before = sides.here["model"], sides.here["before"]
    assert (tuple(model.weight.shape), model.bias is before[1], model.bias.requires_grad) == ((1, 3), True, False)
    assert before[0].tolist() == sides.here["_before"].tolist()


def test_parameters_are_as_they_were_when_the_rest_cannot_be_bound(
    sides: TwoSides, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    sides.local(TORCH + "model = nn.Linear(2, 1)\nmodel.weight.data.fill_(1)\nmodel(torch.ones(1, 2)).sum().backward()")
    weight = sides.here["model"].weight
    monkeypatch.setattr("nbgpu.values.synchroniser.find_module", fail)
    with pytest.raises(KeyboardInterrupt):
        sides.gpu("import math as m\nmodel.weight.data.fill_(2)\nmodel.requires_grad_(False)")
    assert sides.here["model"].weight is weight
    assert (weight.tolist(), weight.grad.tolist(), weight.requires_grad) == ([[1, 1]], [[1, 1]], True)


def test_an_object_that_is_more_than_its_attributes_is_not_taken_over(sides: TwoSides) -> None:
    sides.local(
        "class Odd(tuple):\n    pass\nclass N(complex):\n    pass\nodd, n = Odd([[1]]), N(1)\nn.x = [1]; box = [n]"
    )
    sides.gpu("odd[0].append(2)\nbox[0].x.append(2)\nn")
    assert sides.here["odd"] == ([1, 2],)
    assert sides.here["box"][0].x == [1, 2]


def test_a_list_in_itself_stays_in_itself(sides: TwoSides) -> None:
    sides.local("ring = [1]; ring.append({'self': ring}); alias = ring")
    sides.gpu("ring.append(2)")
    sides.local("found = ring[1]['self'] is ring, alias is ring, len(ring)")
    assert sides.here["found"] == (True, True, 3)


def test_values_that_look_the_same_and_share_something_else_are_sent_again(sides: TwoSides) -> None:
    sides.local("shared = {}; a = [shared]; b = a")
    sides.gpu("a, b, shared")
    sides.local("b = [shared]")
    sides.gpu("b.append(1)\na, shared")
    assert (sides.here["a"], sides.here["b"]) == ([{}], [{}, 1])


def test_what_an_earlier_value_shared_over_there_is_sent_when_it_is_read(sides: TwoSides) -> None:
    sides.local("a = [1]; b = a")
    sides.gpu("a")
    sides.local("b = [1]")
    sides.gpu("a.append(2)")
    sides.gpu("seen = list(b)")
    assert (sides.here["a"], sides.here["b"], sides.here["seen"]) == ([1, 2], [1], [1])
