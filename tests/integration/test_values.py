"""What a `%%gpu` cell reads is there, and what it binds is here afterwards, with no word from the person about it."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbgpu_protocol.discovery import read_record
from notebook_kernel import Cell, NotebookKernel, notebook_kernel, wait_for_answers, without_colours


@pytest.fixture(scope="module")
def notebook(own_folders: Path) -> Iterator[NotebookKernel]:
    work = own_folders / "work"
    work.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x2")
        patch.chdir(work)
        with notebook_kernel(own_folders) as kernel:
            assert not kernel.run("%load_ext nbgpu").errors
            attached = kernel.run("%gpu attach H100")
            assert "attached to H100" in attached.text(), attached.messages
            yield kernel


def run(notebook: NotebookKernel, code: str) -> Cell:
    """Executes a cell that is to succeed."""
    cell = notebook.run(textwrap.dedent(code).strip())
    assert not cell.errors, "\n".join(cell.errors[0]["traceback"])
    return cell


def value(notebook: NotebookKernel, expression: str) -> str | None:
    return run(notebook, expression).result


def failure(notebook: NotebookKernel, code: str) -> str:
    """Executes a cell that is to fail; returns what the person reads."""
    cell = notebook.run(textwrap.dedent(code).strip())
    assert cell.errors, cell.messages
    return without_colours("\n".join(cell.errors[0]["traceback"]))


def test_a_data_frame_there_and_back(notebook: NotebookKernel) -> None:
    run(notebook, "import pandas as pd\nframe = pd.DataFrame({'a': range(1000), 'b': ['x', 'y'] * 500})")
    run(notebook, "%%gpu\nsums = frame.groupby('b').a.sum()\nframe['c'] = frame.a * 2")
    assert value(notebook, "type(sums).__name__, int(sums['x']), list(frame.columns)") == (
        "('Series', 249500, ['a', 'b', 'c'])"
    )


def test_a_large_array_arrives_and_its_result_comes_back(notebook: NotebookKernel) -> None:
    run(notebook, "import numpy as np\nbig = np.ones(62_500_000)")
    cell = run(notebook, "%%gpu\ntotal = float(big.sum())\nbig[0] = 5")
    assert "nbgpu: sending 500 MB: `big` (500 MB)" in cell.text("stderr")
    assert value(notebook, "total") == "62500000.0"
    again = run(notebook, "%%gpu\ntotal = float(big.sum())")
    assert again.text("stderr") == ""
    assert value(notebook, "total") == "62500004.0"
    assert value(notebook, "float(big[0])") == "1.0"
    run(notebook, "%%gpu\ndel big")
    run(notebook, "del big")


def test_a_model_is_trained_there_and_used_in_the_next_cell(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        import torch
        from torch import nn

        class Net(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.inner = nn.Linear(8, width)
                self.outer = nn.Linear(width, 1)

            def forward(self, x):
                return self.outer(torch.relu(self.inner(x)))

        torch.manual_seed(0)
        x = torch.randn(64, 8)
        y = x.sum(1, keepdim=True)
        steps = 30
        """,
    )
    run(
        notebook,
        """
        %%gpu
        net = Net(32)
        optimiser = torch.optim.Adam(net.parameters(), lr=0.05)
        losses = []
        for step in range(steps):
            loss = nn.functional.mse_loss(net(x), y)
            optimiser.zero_grad(); loss.backward(); optimiser.step()
            losses.append(loss.item())
        large = Net(600_000)
        """,
    )
    assert value(notebook, "len(losses), losses[-1] < losses[0], isinstance(net, Net)") == "(30, True, True)"
    # What came back shares what it shared there.
    assert value(notebook, "optimiser.param_groups[0]['params'][0] is net.inner.weight") == "True"
    shown = value(notebook, "large")
    assert shown is not None
    assert shown.startswith("<handle of Net: torch.float32, 24 MB, on cpu; at ")
    run(notebook, "%%gpu\nguess = large(x).shape")
    assert value(notebook, "tuple(guess)") == "(64, 1)"
    run(notebook, "renamed = large")
    run(notebook, "%%gpu\nsame = renamed is large")
    assert value(notebook, "same") == "True"
    assert value(notebook, "isinstance(large.fetch(), Net)") == "True"
    # Training goes on with what was trained, on both sides the same.
    run(notebook, "%%gpu\nbefore = net.inner.weight.detach().clone()\noptimiser.step()")
    assert value(notebook, "bool((before != net.inner.weight).any())") == "True"
    run(notebook, "%%gpu\nshares = optimiser.param_groups[0]['params'][0] is net.inner.weight")
    assert value(notebook, "shares") == "True"


def test_functions_and_classes_keep_their_identity_and_are_redefined(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        from dataclasses import dataclass, asdict
        import enum

        class Colour(enum.Enum):
            RED = 1

        @dataclass
        class Point:
            x: int
            colour: Colour = Colour.RED

            def moved(self):
                return Point(self.x + offset, self.colour)

        offset = 10
        def move(point):
            return point.moved()
        start = Point(1)
        """,
    )
    run(notebook, "%%gpu\nend = move(start)\nfresh = Point(7)\nthere = isinstance(start, Point), asdict(fresh)['x']")
    assert value(notebook, "isinstance(end, Point), end.x, end.colour is Colour.RED, type(fresh) is Point, there") == (
        "(True, 11, True, True, (True, 7))"
    )
    run(notebook, "%%gpu\nearlier = isinstance(start, Point) and isinstance(end, Point) and isinstance(fresh, Point)")
    assert value(notebook, "earlier") == "True"
    run(notebook, "offset = 100")
    run(notebook, "%%gpu\nend = move(start)")
    assert value(notebook, "end.x") == "101"
    run(notebook, "def move(point):\n    return 'redefined'")
    run(notebook, "%%gpu\nend = move(start)")
    assert value(notebook, "end") == "'redefined'"
    run(notebook, "@dataclass\nclass Point:\n    x: int\n    def moved(self):\n        return 'new'\nstart = Point(2)")
    run(notebook, "%%gpu\nend = start.moved(), type(start) is Point")
    assert value(notebook, "end") == "('new', True)"


def test_a_function_there_sees_the_globals_there(notebook: NotebookKernel) -> None:
    run(notebook, "scale = 2\ndef scaled(v):\n    return v * scale")
    run(notebook, "%%gpu\nfirst = scaled(3)\nscale = 5\nsecond = scaled(3)")
    assert value(notebook, "first, second, scale, scaled(1)") == "(6, 15, 5, 5)"
    run(notebook, "def count():\n    global counter\n    counter = counter + 1\ncounter = 0")
    run(notebook, "%%gpu\ncount(); count()")
    assert value(notebook, "counter") == "2"


def test_a_function_that_a_cell_defines_works_here(notebook: NotebookKernel) -> None:
    run(notebook, "base = 40")
    run(
        notebook,
        """
        %%gpu
        import functools

        @functools.lru_cache(maxsize=None)
        def fib(n):
            return n if n < 2 else fib(n - 1) + fib(n - 2)

        def added(n):
            return base + n

        def make_counter():
            n = 0
            def step():
                nonlocal n
                n += 1
                return n
            def look():
                return n
            return step, look

        step, look = make_counter()
        step()
        class Made:
            def me(self):
                return super().__repr__()[:9]
        """,
    )
    assert value(notebook, "fib(10), added(2), step(), look(), Made().me()") == "(55, 42, 2, 2, '<__main__')"
    assert "base + n" in (value(notebook, "import inspect; inspect.getsource(added)") or "")


def test_local_modules_are_imported_there(notebook: NotebookKernel, own_folders: Path) -> None:
    (own_folders / "work" / "beside.py").write_text("def double(v):\n    return 2 * v\nclass Thing:\n    pass\n")
    run(notebook, "import beside\nfrom beside import Thing\nthing = Thing()")
    run(notebook, "%%gpu\ndoubled = beside.double(21)\nother = Thing()\nsame = isinstance(thing, beside.Thing)")
    assert value(notebook, "doubled, isinstance(other, Thing), same") == "(42, True, True)"


def test_submodules_that_a_cell_mentions_are_imported_there(notebook: NotebookKernel) -> None:
    run(notebook, "import xml.dom.minidom")
    run(notebook, "%%gpu\ntag = xml.dom.minidom.parseString('<a/>').documentElement.tagName")
    assert value(notebook, "tag") == "'a'"


def test_modules_that_the_session_lacks_are_named(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        import sys, types
        lacking = sys.modules['lacking'] = types.ModuleType('lacking')
        """,
    )
    text = failure(notebook, "%%gpu\nran = True\nlacking")
    assert "`lacking` needs what the session does not have: ModuleNotFoundError: No module named 'lacking'" in text
    assert "--no-sync" in text
    assert "NameError" in failure(notebook, "ran")
    run(notebook, "class Base: pass\nBase.__module__ = 'lacking'\nlacking.Base = Base\nthing = [Base()]")
    text = failure(notebook, "%%gpu\nran = True\nthing")
    assert "`thing` needs what the session does not have" in text


@pytest.mark.parametrize(
    ("setup", "name", "expected"),
    [
        ("gen = (i for i in [])", "gen", "`gen` cannot be sent: a generator"),
        (
            "import threading\nguarded = {'a': [1, threading.Lock()]}",
            "guarded",
            "`guarded['a'][1]` cannot be sent: a lock",
        ),
        (
            "class L: pass\ntrainer = L(); trainer.logger = L(); trainer.logger.file = open('f.txt', 'w')",
            "trainer",
            "`trainer.logger.file` cannot be sent: an open file",
        ),
        (
            "import threading\nlock = threading.Lock()\ndef locked():\n    return lock",
            "locked()",
            "`lock`, which `locked` reads, cannot be sent: a lock",
        ),
        (
            "class Bad:\n    def __reduce__(self):\n        raise RuntimeError('no way')\nholder = [Bad()]",
            "holder",
            "`holder[0]` cannot be sent: a __main__.Bad (RuntimeError: no way)",
        ),
        ("loop = []\nloop.append(loop)\nloop.append(x for x in ())", "loop", "`loop[1]` cannot be sent: a generator"),
    ],
)
def test_what_cannot_be_pickled_is_named_before_anything_runs(
    notebook: NotebookKernel, setup: str, name: str, expected: str
) -> None:
    run(notebook, setup)
    text = failure(notebook, f"%%gpu\nprint('ran')\n{name}")
    assert f"NotPicklableError: {expected}" in text
    assert "ran" not in text
    run(notebook, "trainer = loop = None")


def test_recursive_structures(notebook: NotebookKernel) -> None:
    run(notebook, "ring = [1]\nring.append({'self': ring})")
    run(notebook, "%%gpu\nclosed = ring[1]['self'] is ring\nother = {}\nother['o'] = [other]")
    assert value(notebook, "closed, other['o'][0] is other") == "(True, True)"


def test_a_value_that_fails_to_unpickle_stops_the_cell(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        class Odd:
            def __setstate__(self, state):
                raise ValueError('not with me')
        odd = Odd(); odd.a = 1
        fine = 1
        """,
    )
    text = failure(notebook, "%%gpu\nfine\nprint('ran')\nodd")
    assert "`odd` cannot be put together in the session: ValueError: not with me" in text
    assert "'fine' in globals()" not in text
    cell = run(notebook, "%%gpu --no-sync\nprint('fine' in globals(), 'odd' in globals())")
    assert cell.text() == "False False\n"  # all or nothing


def test_a_value_that_unpickles_differently_is_sent_once(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        class Host:
            def __init__(self):
                self.made_by = os.getpid()
            def __reduce__(self):
                return Host, ()
        import os
        host = Host()
        """,
    )
    run(notebook, "%%gpu\nseen = id(host)")
    run(notebook, "first = seen")
    run(notebook, "%%gpu\nseen = id(host)")
    assert value(notebook, "first == seen") == "True"
    assert value(notebook, "host.made_by == os.getpid()") == "True"


def test_shadowed_builtins_and_unread_names(notebook: NotebookKernel) -> None:
    run(notebook, "max = 'shadow'\nunread = (i for i in [])")
    run(notebook, "%%gpu\nshadowed = max\nunread = 5\nfresh_len = len([1])")
    assert value(notebook, "shadowed, unread, fresh_len") == "('shadow', 5, 1)"
    run(notebook, "del max")
    run(notebook, "%%gpu\ndel max")


def test_a_syntax_error_sends_nothing(notebook: NotebookKernel) -> None:
    run(notebook, "import threading\nunsendable = threading.Lock()")
    text = failure(notebook, "%%gpu\nunsendable\nx = = 3")
    assert "SyntaxError" in text
    assert "cannot be sent" not in text


def test_reading_and_rebinding(notebook: NotebookKernel) -> None:
    run(notebook, "a = 1\nitems = [1]\nalias = items\nnested = {'k': [1]}")
    run(notebook, "%%gpu\na = a + 1\nitems.append(2)\nnested['k'].append(a)")
    assert value(notebook, "a, items, alias is items, nested") == "(2, [1, 2], True, {'k': [1, 2]})"
    run(notebook, "%%gpu\na += 1\nitems += [3]\nfor i in range(3): pass\nimport json as j")
    assert value(notebook, "a, items, i, j.dumps({})") == "(3, [1, 2, 3], 2, '{}')"
    run(notebook, "%%time\n1")
    run(notebook, "%%gpu\n%%time\na = a * 10")
    assert value(notebook, "a") == "30"
    cell = run(notebook, "%%gpu\nout = !echo $a {a + 1}\nout")
    assert cell.result == "['30 31']"


def test_nothing_comes_back_from_a_cell_that_fails(notebook: NotebookKernel) -> None:
    run(notebook, "kept = 1\ngrown = []")
    failure(notebook, "%%gpu\nkept = 2\ngrown.append(1)\n1 / 0")
    assert value(notebook, "kept, grown") == "(1, [])"
    # The notebook's `kept` goes there again; `grown`, which was sent and changed there, comes with the next success.
    cell = run(notebook, "%%gpu\nprint(kept, grown)")
    assert cell.text() == "1 [1]\n"
    assert "`kept` was changed here and in the session; the notebook's is used" in cell.text("stderr")
    assert value(notebook, "kept, grown") == "(1, [1])"


def test_the_notebook_wins_where_both_changed(notebook: NotebookKernel) -> None:
    run(notebook, "both = 1")
    run(notebook, "%%gpu\nboth")
    run(notebook, "%%gpu --no-sync\nboth = 'there'")
    run(notebook, "both = 'here'")
    cell = run(notebook, "%%gpu\nprint(both)")
    assert cell.text() == "here\n"
    assert cell.text("stderr") == "nbgpu: `both` was changed here and in the session; the notebook's is used\n"


def test_options(notebook: NotebookKernel) -> None:
    run(notebook, "hidden = 3")
    run(notebook, "%%gpu -i hidden\nassert eval('hidden') == 3")
    run(notebook, "%%gpu -o blob\nblob = bytes(20_000_000)\nstays = bytes(20_000_000)")
    assert value(notebook, "len(blob), type(stays).__name__, len(stays.fetch())") == "(20000000, 'Handle', 20000000)"
    cell = run(notebook, "%%gpu --no-sync\nhidden = 4\nunknown = 1\nprint('quiet')")
    assert cell.text() == "quiet\n"
    assert value(notebook, "hidden, 'unknown' in globals()") == "(3, False)"
    assert "-i needs the name of a variable" in failure(notebook, "%%gpu -i\n1")
    assert "there is no variable nowhere here" in failure(notebook, "%%gpu -i nowhere\n1")
    assert "-i and -o that it is" in failure(notebook, "%%gpu --no-sync -i hidden\n1")
    text = failure(notebook, "%%gpu -o nothing\nlock_there = __import__('threading').Lock()\n1/0")
    assert "ZeroDivisionError" in text


def test_unpicklable_results_are_handles(notebook: NotebookKernel) -> None:
    cell = run(notebook, "%%gpu\nimport threading\nlock = threading.Lock()\nlines = (i for i in range(3))")
    assert cell.text("stderr") == ""
    assert "<handle of _thread.lock; at " in (value(notebook, "lock") or "")
    run(notebook, "%%gpu\nfirst = next(lines)")
    run(notebook, "%%gpu\nfirst = next(lines), lock.locked()")
    assert value(notebook, "first") == "(1, False)"
    assert "`lock` stays in the session" in run(notebook, "%%gpu -o lock\nlock = threading.Lock()").text("stderr")
    assert "cannot leave its session" in failure(notebook, "lines.fetch()")


def test_handles_are_completed_and_inspected(notebook: NotebookKernel) -> None:
    wait_for_answers(notebook)
    run(
        notebook,
        """
        %%gpu
        class Trained:
            'What it has learned.'
            _hidden = large = bytes(20_000_000)
            def predict(self): return 'predicted'
            def __reduce__(self): raise TypeError('stays')
        trained = Trained()
        """,
    )
    found = notebook.ask("complete_request", {"code": "x = trained.pre", "cursor_pos": 15})
    assert "x = trained.predict" in ["x = trained.pre"[: found["cursor_start"]] + each for each in found["matches"]]
    seen = notebook.ask("inspect_request", {"code": "trained", "cursor_pos": 7, "detail_level": 0})
    text = without_colours(seen["data"]["text/plain"])
    assert "type:   Trained" in text
    assert "where:  " in text
    assert "What it has learned." in text
    assert value(notebook, "trained._repr_html_().startswith('<code>&lt;handle of Trained')") == "True"


def test_push_and_pull(notebook: NotebookKernel) -> None:
    run(notebook, "pushed = [1, 2]")
    assert run(notebook, "%gpu push pushed").text() == "sent pushed\n"
    run(notebook, "%%gpu --no-sync\npushed.append(3); pulled = len(pushed)")
    assert run(notebook, "%gpu pull pulled pushed").text() == "brought pulled, pushed\n"
    assert value(notebook, "pulled, pushed") == "(3, [1, 2, 3])"
    assert "there is no variable nowhere in the session" in failure(notebook, "%gpu pull pulled nowhere")
    assert "names of variables" in failure(notebook, "%gpu push 1x")


def test_sharing_between_values_survives(notebook: NotebookKernel) -> None:
    run(notebook, "inner = [1]\nouter = {'inner': inner}")
    run(notebook, "%%gpu\nouter['inner'].append(2)\nseen = inner")
    assert value(notebook, "seen, inner, outer['inner']") == "([1, 2], [1, 2], [1, 2])"


def test_private_names_stay(notebook: NotebookKernel) -> None:
    run(notebook, "_mine = 5")
    run(notebook, "%%gpu\n_theirs = _mine + 1\nprint(_theirs)")
    assert value(notebook, "'_theirs' in globals()") == "False"


def test_too_much_is_refused_and_named(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        import numpy as np
        loader = np.lib.stride_tricks.as_strided(np.zeros(1), (1,), (8,))
        class Huge:
            # Announces buffers of 2 GB without having them twice.
            def __reduce_ex__(self, protocol):
                import pickle
                return bytearray, (pickle.PickleBuffer(space),)
        import mmap
        space = mmap.mmap(-1, 2_000_000_000)
        loader = Huge()
        def train():
            return loader
        """,
    )
    text = failure(notebook, "%%gpu\nprint('ran')\ntrain()")
    assert "TooLargeError: the cell would send 2.0 GB: `loader` (2.0 GB) through `train`" in text
    assert "%%gpu -i loader" in text
    run(notebook, "loader = space = None")


def test_sticky_cells_are_synchronised(notebook: NotebookKernel) -> None:
    run(notebook, "sticky = 20")
    run(notebook, "%gpu on")
    run(notebook, "stuck = sticky + 1")
    run(notebook, "%gpu off")
    assert value(notebook, "stuck") == "21"


def test_from_python(notebook: NotebookKernel) -> None:
    run(notebook, "import nbgpu\nsession = nbgpu.attach()\nuntouched = 1")
    run(notebook, "got = session.execute('added_up = p + q', inputs={'p': 1, 'q': 2}, outputs=['added_up'])")
    assert value(notebook, "got, 'added_up' in globals(), 'p' in globals()") == "({'added_up': 3}, False, False)"
    assert "there is no variable missing" in failure(notebook, "session.execute('1', outputs=['missing'])")
    assert value(notebook, "session.execute('untouched = 2')") is None
    assert value(notebook, "untouched") == "1"


def test_from_python_on_an_event_loop(notebook: NotebookKernel) -> None:
    run(notebook, "import asyncio\ntwin = await nbgpu.attach_async()\nuntouched = 1")
    run(notebook, "got = await twin.execute('product = p * q', inputs={'p': 6, 'q': 7}, outputs=['product'])")
    assert value(notebook, "got, 'product' in globals()") == "({'product': 42}, False)"
    assert "there is no variable missing" in failure(notebook, "await twin.execute('1', outputs=['missing'])")
    assert "`x` cannot be sent: a generator" in failure(
        notebook, "await twin.execute('ran_async = 1', inputs={'x': (i for i in ())})"
    )
    run(notebook, "both = [twin.execute(f's{i} = {i}', outputs=[f's{i}']) for i in range(2)]")
    assert value(notebook, "await asyncio.gather(*both)") == "[{'s0': 0}, {'s1': 1}]"
    run(notebook, "shared = [1]\nawait twin.push('shared')")
    run(notebook, "%%gpu --no-sync\nshared.append('ran_async' in globals())")
    run(notebook, "await twin.pull('shared')")
    assert value(notebook, "shared") == "[1, False]"


def test_cancelling_an_execution_with_inputs_interrupts_it(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        code = "import time\\nwhile True: time.sleep(0.01)"
        task = asyncio.ensure_future(twin.execute(code, inputs={'p': 1}, outputs=['p']))
        await asyncio.wait([task], timeout=0.5)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            ended = 'cancelled'
        """,
    )
    assert value(notebook, "ended") == "'cancelled'"
    run(notebook, "after = await twin.execute('after = 5', outputs=['after'])")
    assert value(notebook, "after") == "{'after': 5}"


def test_a_restarted_kernel_has_nothing_and_gets_it_again(notebook: NotebookKernel) -> None:
    run(notebook, "import threading\nagain = [1]\nclass Kept: pass\nkept_one = Kept()")
    run(notebook, "%%gpu\nlast = threading.Lock()\nagain, kept_one")
    run(notebook, "%gpu restart")
    run(notebook, "%%gpu\nagain.append(2); isinstance(kept_one, Kept)")
    assert value(notebook, "again") == "[1, 2]"
    text = failure(notebook, "%%gpu\nlast")
    assert "StaleHandleError: the object of <handle of _thread.lock" in text
    assert "is gone: the session has a fresh kernel since" in text
    assert "is gone: the session has a fresh kernel since" in failure(notebook, "last.fetch()")


def test_a_handle_of_another_session_is_refused(notebook: NotebookKernel) -> None:
    run(notebook, "import threading, nbgpu")
    run(notebook, "%%gpu\nhere = threading.Lock()")
    run(notebook, "mine = nbgpu.attach()\nother = nbgpu.attach('H100', new=True)")
    text = failure(notebook, "%%gpu\nhere")
    assert "is in another session than" in text
    run(notebook, "other.close()")


def test_an_interrupted_cell_brings_nothing_back(notebook: NotebookKernel) -> None:
    run(notebook, "half = [1]")
    cell = notebook.run(
        "%%gpu\nhalf.append(2)\nimport time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)",
        during=notebook.interrupt,
    )
    assert cell.errors[0]["ename"] == "KeyboardInterrupt"
    assert value(notebook, "half") == "[1]"


def test_nothing_is_left_in_the_environment(notebook: NotebookKernel) -> None:
    run(notebook, "%gpu attach H100")
    run(notebook, "%%gpu\nimport os\nvisible = sorted(name for name in os.environ if 'BLOBS' in name)")
    assert value(notebook, "visible") == "[]"
    assert "BLOBS" not in "".join(os.environ)


@pytest.fixture
def distant_notebook(notebook: NotebookKernel, own_folders: Path) -> Iterator[NotebookKernel]:
    """A notebook that reaches the agent by an address that it does not know to be this machine's own."""
    record = read_record(own_folders / "agent")
    assert record is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_AGENT_ADDRESS", record.address.replace("unix:/", "unix:///"))
        patch.setenv("NBGPU_AGENT_TOKEN", record.token)
        with notebook_kernel(own_folders, name="distant") as kernel:
            assert not kernel.run("%load_ext nbgpu").errors
            yield kernel


def test_values_reach_an_agent_that_is_elsewhere(distant_notebook: NotebookKernel) -> None:
    run(
        distant_notebook,
        "import nbgpu.values.exchange, numpy as np\nbig = np.arange(1e6); text = 'x' * 1_000_000",
    )
    run(distant_notebook, "%%gpu\ndoubled = big * 2\nlength = len(text)\nlarge = np.ones(3_000_000)")
    assert value(distant_notebook, "float(doubled[-1]), length, big.flags.writeable") == "(1999998.0, 1000000, True)"
    assert value(distant_notebook, "float(large.fetch().sum())") == "3000000.0"
    assert value(distant_notebook, "nbgpu.values.exchange._store_folder(nbgpu.attach()._client)") is None
    run(distant_notebook, "%gpu close")
