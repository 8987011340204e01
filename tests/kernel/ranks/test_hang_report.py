"""What is said of ranks that hang, by what the launcher wrote, and how it is kept up to date under the cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nbgpu_kernel.ranks.doctor import Look, RankLook, diagnose, observe
from nbgpu_kernel.ranks.gpu_load import GpuLoad, read_gpu_loads
from nbgpu_kernel.ranks.hang_file import HangTeller, read_hang
from nbgpu_kernel.ranks.hang_view import HangView
from nbgpu_kernel.ranks.hang_words import hang_in_words
from nbgpu_kernel.ranks.stacks import Frame

TRAIN = Frame("/n/1.py", 5, "train<T>")
WAITS = (Frame("/e/site-packages/torch/distributed/distributed_c10d.py", 2806, "all_reduce"), TRAIN)
LOADS = (Frame("/n/1.py", 9, "load"), TRAIN)
NVIDIA_SMI = """#!/bin/sh
case "$*" in *--query-gpu=index,uuid,utilization.gpu,memory.used*) ;; *) exit 1 ;; esac
echo "0, GPU-aa, 100, 20000"
echo "1, GPU-bb, 0, 512"
echo "2, GPU-cc, [N/A], [N/A]"
"""


def place_of(file: str) -> str:
    return "Cell In[4]" if file == "/n/1.py" else "File distributed_c10d.py"


def tell(path: Path, *ranks: RankLook, gpus: dict[int, GpuLoad] | None = None, now_s: float = 65.0) -> HangTeller:
    """Has the launcher's side tell that these ranks have been there for 65 s."""
    progress = None
    for time_s in (0.0, 65.0):
        progress = observe(progress, Look(time_s, ranks, 0))
    assert progress is not None
    teller = HangTeller(path, len(ranks))
    teller.tell(diagnose(progress, 60.0), now_s, gpus or {})
    return teller


def tell_again(teller: HangTeller, now_s: float, line: int = 9) -> None:
    progress = None
    for time_s in (0.0, now_s):
        stuck = (look(0, WAITS, 8), look(1, (Frame("/n/1.py", line, "load"), TRAIN), 7))
        progress = observe(progress, Look(time_s, stuck, 0))
    assert progress is not None
    teller.tell(diagnose(progress, 60.0), now_s, {})


def look(rank: int, stack: tuple[Frame, ...], count: int) -> RankLook:
    return RankLook(rank, stack, counts=(("0", count),))


def said(path: Path, **options: bool) -> list[str]:
    hang = read_hang(path)
    assert hang is not None
    return hang_in_words(hang, place_of, **options).text().splitlines()


def test_who_waits_and_who_has_not_come(tmp_path: Path) -> None:
    path = tmp_path / "hang.json"
    gpus = {0: GpuLoad(100.0, 1.0), 1: GpuLoad(98.0, 1.0), 2: GpuLoad(0.0, 1.0)}
    tell(path, look(0, WAITS, 8), look(1, WAITS, 8), look(2, LOADS, 6), look(3, (), 8), gpus=gpus)
    assert said(path) == [
        "nbgpu: No progress for more than 1:05: ranks 2-3 of 4 have not come to all_reduce",
        "  ranks 0-1 wait in all_reduce, in train<T>, line 5 of Cell In[4], for 1:05; GPUs at 98 to 100 %",
        "  rank 2 is in load, line 9 of Cell In[4], at that line for 1:05, 2 collectives behind; GPU at 0 %",
        "  rank 3 does not show where it is",
        "  A GPU that waits in NCCL is at 100 %, and computes nothing; nothing is ended because of this; an interrupt"
        " ends the call.",
    ]
    assert said(path, has_ended=True)[0] == (
        "nbgpu: Ended after 1:05 without progress: ranks 2-3 of 4 had not come to all_reduce"
    )


def test_all_have_come_or_one_never_will(tmp_path: Path) -> None:
    path = tmp_path / "hang.json"
    tell(path, look(0, WAITS, 8), look(1, WAITS, 8))
    assert said(path)[0].endswith(": all 2 ranks are in all_reduce")
    assert "do they pass tensors of the same size and type" in said(path)[-1]
    tell(path, look(0, WAITS, 8), RankLook(1, has_returned=True))
    assert said(path)[0].endswith(": rank 1 of 2 has returned without all_reduce")
    assert "  rank 1 has returned, and will not come" in said(path)


def test_what_the_person_named_is_no_markup(tmp_path: Path) -> None:
    path = tmp_path / "hang.json"
    tell(path, look(0, WAITS, 8), look(1, LOADS, 7))
    hang = read_hang(path)
    assert hang is not None
    html = hang_in_words(hang, place_of).html()
    assert "train&lt;T&gt;" in html
    assert "train<T>" not in html
    assert html.count("<details>") == 2
    # The outermost frame first, as in a traceback.
    assert html.index("line 5, in train") < html.index("line 2806, in all_reduce")


class Display:
    """What a front end was sent."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, bool, str]] = []

    def publish(self, data: dict[str, str], *, transient: dict[str, Any], update: bool) -> None:
        self.shown.append((transient["display_id"], update, data["text/plain"]))


def test_one_display_is_kept_up_to_date(tmp_path: Path) -> None:
    path, display = tmp_path / "hang.json", Display()
    view = HangView(path, display.publish, place_of)
    view.refresh()
    teller = tell(path, look(0, WAITS, 8), look(1, LOADS, 7))
    for now_s in (66.0, 70.0, 75.0):  # ever the same
        view.refresh()
        tell_again(teller, now_s)
    teller.tell(None, 80.0, {})
    view.refresh()
    view.finish(has_returned=True)
    (first, is_update, text), (last, is_last_update, over) = display.shown
    assert (is_update, is_last_update, first == last) == (False, True, True)
    assert "No progress for more than 1:05: rank 1 of 2 has" in text
    assert over == ("nbgpu: Went on after 1:15 without progress: rank 1 of 2 had not come to all_reduce")


def test_it_is_brought_up_to_date_seldom_as_that_folds_what_a_person_has_opened(tmp_path: Path) -> None:
    path, display = tmp_path / "hang.json", Display()
    view = HangView(path, display.publish, place_of)
    teller = tell(path, look(0, WAITS, 8), look(1, LOADS, 7))
    for now_s in (65, 70, 80, 90, 97, 98, 120, 140, 147, 150):
        tell_again(teller, float(now_s), line=now_s)  # a rank that moves within its function, too
        view.refresh()
    durations = [text.partition(" than ")[2].partition(":")[2][:2] for _, _, text in display.shown]
    assert durations == ["05", "38", "27"]


@pytest.mark.parametrize(("has_returned", "begins"), [(True, "Went on after"), (False, "Ended after")])
def test_a_call_that_ends_while_it_hangs(tmp_path: Path, has_returned: bool, begins: str) -> None:
    path, display = tmp_path / "hang.json", Display()
    view = HangView(path, display.publish, place_of)
    tell(path, look(0, WAITS, 8), look(1, LOADS, 7))
    view.refresh()
    view.finish(has_returned=has_returned)
    assert [update for _, update, _ in display.shown] == [False, True]
    assert display.shown[-1][2].startswith(f"nbgpu: {begins}")


def test_where_nothing_can_be_updated_it_is_written_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hang.json"
    view = HangView(path, None, place_of)
    teller = tell(path, look(0, WAITS, 8), look(1, LOADS, 7))
    view.refresh()
    teller.tell(None, 80.0, {})
    view.refresh()
    written = capsys.readouterr().err
    assert written.count("nbgpu: No progress") == 1
    assert written.count("nbgpu: Went on") == 1


def test_the_load_of_each_ranks_gpu(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(NVIDIA_SMI)
    program.chmod(0o700)
    path = f"{tmp_path}:/usr/bin:/bin"
    loads = read_gpu_loads({"PATH": path, "CUDA_VISIBLE_DEVICES": "GPU-bb,GPU-aa,GPU-cc,MIG-dd"})
    assert loads == {0: GpuLoad(0.0, 512.0), 1: GpuLoad(100.0, 20000.0), 2: GpuLoad(None, None)}
    assert read_gpu_loads({"PATH": path, "CUDA_VISIBLE_DEVICES": "1"}) == {0: GpuLoad(0.0, 512.0)}
    assert read_gpu_loads({"PATH": path, "CUDA_VISIBLE_DEVICES": ""}) == {}
    assert read_gpu_loads({"PATH": "/nowhere", "CUDA_VISIBLE_DEVICES": "0"}) == {}
