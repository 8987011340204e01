"""A function runs on every rank: what it has there, what comes back, what is shown, and how it is found again."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from notebook_kernel import Cell, NotebookKernel, notebook_kernel, without_colours


@pytest.fixture(scope="module")
def notebook(own_folders: Path) -> Iterator[NotebookKernel]:
    work = own_folders / "work"
    work.mkdir()
    (work / "beside.py").write_text("def double(v):\n    return 2 * v\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x4")
        patch.chdir(work)
        with notebook_kernel(own_folders) as kernel:
            run(kernel, "%load_ext nbgpu")
            run(kernel, "from nbgpu import distributed, find_call, runtime as rt")
            run(kernel, "%gpu attach H100x4")
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
    assert len(cell.errors) == 1, cell.messages
    return without_colours("\n".join(cell.errors[0]["traceback"]))


def test_what_a_function_has_on_its_ranks_and_what_comes_back(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        import os, torch, beside
        import numpy as np
        from dataclasses import dataclass

        @dataclass
        class Point:
            x: int

        offset = 100
        big = np.arange(300_000)
        def shifted(point):
            return Point(point.x + offset)

        def outer(extra):
            @distributed(gpus=3, gpu_type="h100_80gb")
            def work(point, *, scale):
                import torch.distributed as dist
                dist.init_process_group("gloo")
                total = torch.tensor([rt.get_global_rank() + 1.0])
                dist.all_reduce(total)
                big[0] = rt.get_global_rank()
                dist.destroy_process_group()
                return {
                    "rank": (rt.get_global_rank(), rt.get_local_rank(), rt.get_world_size(), rt.get_node_rank()),
                    "total": total,
                    "point": shifted(point),
                    "beside": beside.double(scale) + extra,
                    "big": int(big[0] + big[-1]),
                    "threads": os.environ["OMP_NUM_THREADS"],
                    "main": __name__,
                }
            return work

        work = outer(0.5)
        results = work.distributed(Point(5), scale=2)
        """,
    )
    assert value(notebook, "[each['rank'] for each in results]") == "[(0, 0, 3, 0), (1, 1, 3, 0), (2, 2, 3, 0)]"
    assert value(notebook, "[each['total'].item() for each in results]") == "[6.0, 6.0, 6.0]"
    assert value(notebook, "{type(each['point']) is Point and each['point'].x for each in results}") == "{105}"
    assert value(notebook, "{(each['beside'], each['main']) for each in results}") == "{(4.5, '__main__')}"
    # Each rank wrote to its own.
    assert value(notebook, "[each['big'] for each in results], int(big[0])") == "([299999, 300000, 300001], 0)"
    assert value(notebook, "all(int(each['threads']) >= 1 for each in results)") == "True"
    assert value(notebook, "work.with_overrides(gpus=2)") is not None
    # Called directly it runs here, where nobody is a rank.
    assert value(notebook, "rt.get_global_rank(), rt.get_world_size()") == "(0, 1)"


def test_rank_0_is_shown_in_full_and_the_others_folded(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        @distributed
        def say():
            import sys, time
            rank = rt.get_global_rank()
            print(f"rank {rank} <is> here")
            for step in range(3):
                print(f"step {step}", end="\\r", flush=True)
            print("done ✓")
            print("to stderr", file=sys.stderr)
            return rank
        """,
    )
    cell = run(notebook, "say.distributed()")
    assert cell.result == "[0, 1, 2, 3]"
    assert cell.text() == "rank 0 <is> here\nstep 0\rstep 1\rstep 2\rdone ✓\n"
    assert cell.text("stderr") == "to stderr\n"
    displays = [each["content"] for each in cell.messages if "display_data" in each["msg_type"]]
    assert {each["transient"]["display_id"] for each in displays} == {displays[0]["transient"]["display_id"]}
    shown = displays[-1]["data"]
    assert sorted(shown["text/plain"].splitlines()) == sorted(
        [
            "[rank 1] rank 1 <is> here",
            "[rank 2] rank 2 <is> here",
            "[rank 3] rank 3 <is> here",
            "[ranks 1-3] done ✓",
            "[ranks 1-3] to stderr",
        ]
    )
    assert shown["text/html"].startswith("<details><summary>ranks 1-3: 5 lines</summary><pre>")
    assert "rank 1 &lt;is&gt; here" in shown["text/html"]
    assert "step" not in shown["text/html"]
    assert run(notebook, "%gpu logs --rank 3").text().startswith("rank 3 <is> here\nstep 0\rstep 1\r")
    assert "there is no rank 4 in a call on 4 ranks" in failure(notebook, "%gpu logs --rank 4")
    assert "a number is expected" in failure(notebook, "%gpu logs --rank x")

    everything = run(notebook, "say.with_overrides(gpus=2, all_ranks=True).distributed()")
    assert "[rank 1] rank 1 <is> here\n" in everything.text()
    assert "[rank 0] done ✓\n" in everything.text()
    assert not [each for each in everything.kinds if "display" in each]


def test_a_call_that_was_submitted_is_found_after_a_restart_of_this_kernel(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        from pathlib import Path
        gate = Path("gate").absolute()
        @distributed(gpus=2)
        def wait_for_gate(gate):
            import time
            print("waiting", rt.get_global_rank())
            while not gate.exists():
                time.sleep(0.01)
            return [rt.get_global_rank()] * 2
        call = wait_for_gate.submit(gate)
        """,
    )
    assert value(notebook, "call.status") == "'running'"
    call_id = value(notebook, "call.id")
    notebook.restart()
    run(notebook, "%load_ext nbgpu\nfrom nbgpu import distributed, find_call, runtime as rt\nimport nbgpu, os")
    assert "NoSuchCallError" in failure(notebook, "find_call('00000000')")
    run(notebook, f"call = find_call({call_id})\nassert call.status == 'running' and call.id == {call_id}")
    run(notebook, "from pathlib import Path\nPath('gate').touch()")
    cell = run(notebook, "result = call.result()")
    assert cell.text() == "waiting 0\n"
    assert value(notebook, "result, call.status, call.logs(1)") == "([[0, 0], [1, 1]], 'returned', 'waiting 1\\n')"
    assert value(notebook, "find_call().id == call.id and find_call().result() == result") == "True"


def test_a_call_that_is_cancelled_leaves_nothing(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        @distributed(gpus=2)
        def hang():
            import subprocess, time, signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            subprocess.Popen(["sleep", "600"], start_new_session=True)
            Path(started).touch()
            time.sleep(600)
        started = str(Path("started").absolute())
        call = hang.submit()
        while not Path("started").exists():
            assert call.status == "running"
        call.cancel()
        call.cancel()
        """,
    )
    assert value(notebook, "call.status") == "'cancelled'"
    run(notebook, "early = hang.submit()\nearly.cancel()\nassert early.status == 'cancelled', early.status")
    assert "CallCancelledError: the call " in failure(notebook, "call.result()")
    assert_nothing_left(notebook)


def test_an_interrupt_ends_the_ranks_and_raises_once(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        @distributed(gpus=2)
        def loop():
            import time
            print("begun", flush=True)
            while True:
                time.sleep(0.01)
        """,
    )
    cell = notebook.run("loop.distributed()", during=notebook.interrupt)
    assert [each["ename"] for each in cell.errors] == ["KeyboardInterrupt"]
    assert "its ranks are ended" in "\n".join(cell.errors[0]["traceback"])
    assert_nothing_left(notebook)
    assert value(notebook, "nbgpu.attach().execute('still = 1', outputs=['still'])") == "{'still': 1}"


def test_what_cannot_be_sent_or_come_back_is_named(notebook: NotebookKernel) -> None:
    text = failure(
        notebook,
        """
        import threading
        @distributed(gpus=1)
        def unsendable(lock): pass
        unsendable.distributed(threading.Lock())
        """,
    )
    assert "NotPicklableError" in text
    run(notebook, "%%gpu\nhandle = threading.Lock()")
    text = failure(notebook, "unsendable.distributed(handle)")
    assert "the call cannot be sent to the ranks: TypeError: cannot pickle '_thread.lock' object" in text
    text = failure(
        notebook,
        """
        @distributed(gpus=1)
        def returns_lock():
            return threading.Lock()
        returns_lock.distributed()
        """,
    )
    assert "TypeError: what returns_lock returned, a lock, cannot leave rank 0" in text


def test_the_options_are_read_under_all_their_names(notebook: NotebookKernel) -> None:
    assert "SpecError" in failure(notebook, "distributed(gpus=3, gpu_type='GPU_8xH100')")
    assert "under two names" in failure(notebook, "distributed(4, gpus=3)")
    assert "above 0" in failure(notebook, "distributed(timeout=0)")
    assert "no Z9000 here" in failure(notebook, "@distributed(1, 'Z9000')\ndef f(): pass\nf.distributed()")


def test_a_cell_of_the_session_calls_a_function_on_its_own_accelerators(notebook: NotebookKernel) -> None:
    run(notebook, "weight = 3\n@distributed(gpus=2)\ndef weigh(x):\n    return weight * x + rt.get_global_rank()")
    cell = run(
        notebook, "%%gpu\nprint('there')\nweighed = weigh.distributed(10)\ncall = weigh.submit(1)\ncall.result()"
    )
    assert (cell.text(), cell.result) == ("there\n", "[3, 4]")
    assert value(notebook, "weighed") == "[30, 31]"
    text = failure(notebook, "%%gpu\nweigh.with_overrides(gpus=8).distributed(1)")
    assert "8 accelerators are asked for in a session that has 4" in text
    text = failure(notebook, "%%gpu\nweigh.distributed(None)")
    assert "TypeError: unsupported operand" in text
    assert "weight * x" in text
    text = failure(
        notebook, "@distributed(gpus=1)\ndef nested():\n    return weigh.distributed(1)\nnested.distributed()"
    )
    assert "a rank cannot call a function on ranks" in text


def test_variables_of_the_session_and_its_environment(notebook: NotebookKernel) -> None:
    run(notebook, "%%gpu --no-sync\nimport os\nos.environ['NAMED'] = 'yes'\nonly_there = 7")
    run(
        notebook,
        """
        import os
        @distributed(gpus=1)
        def look():
            import os
            return os.environ["NAMED"], only_there, os.getcwd(), os.environ.get("MPLBACKEND")
        """,
    )
    assert value(notebook, "look.distributed()[0][:2], look.distributed()[0][2] == os.getcwd()") == "(('yes', 7), True)"


def test_what_ranks_start_themselves(notebook: NotebookKernel) -> None:
    run(
        notebook,
        """
        import torch
        class Squares(torch.utils.data.Dataset):
            def __len__(self):
                return 8
            def __getitem__(self, at):
                return at * at

        def in_a_process(queue):
            queue.put("spoken")

        @distributed(gpus=2)
        def start_others():
            import atexit, multiprocessing, subprocess, sys, threading
            subprocess.run(["echo", "from a child"], check=True)
            loader = torch.utils.data.DataLoader(Squares(), batch_size=4, num_workers=1)
            batches = [each.tolist() for each in loader]
            context = multiprocessing.get_context("fork")
            queue = context.Queue()
            process = context.Process(target=in_a_process, args=(queue,))
            process.start()
            word = queue.get()
            process.join()
            atexit.register(print, "at the end")
            threading.Thread(target=lambda: print("in a thread")).start()
            return batches, word, sys.stdin.read(), float(torch.rand(1)), __import__("numpy").random.rand()
        """,
    )
    cell = run(notebook, "found = start_others.distributed()")
    expected = ([[0, 1, 4, 9], [16, 25, 36, 49]], "spoken", "")
    assert value(notebook, f"[each[:3] for each in found] == 2 * [{expected!r}]") == "True"
    assert {"from a child", "in a thread", "at the end"} <= set(cell.text().splitlines())
    # Forked from one process, and yet not alike where fresh processes are not.
    assert value(notebook, "found[0][3] == found[1][3], found[0][4] != found[1][4]") == "(True, True)"
    assert_nothing_left(notebook)


def assert_nothing_left(notebook: NotebookKernel) -> None:
    """Looks for processes of any call, and for files of theirs, in the session."""
    left = run(
        notebook,
        """
        %%gpu --no-sync
        import os, tempfile
        from pathlib import Path
        def marked():
            for each in Path("/proc").glob("[0-9]*"):
                try:
                    variables = (each / "environ").read_bytes()
                    if b"NBGPU_CALL_ID=" in variables and os.environ["IPYTHONDIR"].encode() in variables:
                        yield (each / "cmdline").read_bytes()
                except OSError:
                    pass
        folder = Path(tempfile.gettempdir())
        print((list(marked()), list(folder.glob("*/t")), list(folder.glob("*/payload"))))
        """,
    )
    assert re.fullmatch(r"\(\[\], \[\], \[\]\)\n", left.text()), left.text()
