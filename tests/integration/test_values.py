"""What a `%%gpu` cell reads is there, and what it binds is here afterwards, with no word from the person about it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbgpu_protocol.discovery import read_record
from notebook_kernel import NotebookKernel, failure, notebook_kernel, run, value, wait_for_answers, without_colours


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
