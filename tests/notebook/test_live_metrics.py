"""What accelerators do, in the notebook: rows for plots, a table, a live table in a terminal, and charts."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from importlib import resources
from typing import Any

import pytest

from agent_processes import DEADLINE_S, Workplace
from nbgpu.live_metrics.readings import COLUMNS, as_frame, rows_of
from nbgpu.live_metrics.table import metrics_table
from nbgpu_protocol.v1 import pool_pb2

BUSY = "import time; deadline = time.monotonic() + 2.5\nwhile time.monotonic() < deadline: pass"


@pytest.fixture
def running(place: Workplace) -> Workplace:
    place.start_embedded()
    return place


def run(place: Workplace, program: str) -> Any:
    """Returns what the program printed last, as JSON."""
    finished = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", f"import json, sys, nbgpu\n{program}"],
        env=place.environ(NBGPU_AGENT_DIR=str(place.folder)),
        cwd=place.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_S,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def sample(**fields: Any) -> pool_pb2.Sample:
    return pool_pb2.Sample(accelerator_id="a", time_unix_s=100.5, **fields)


ACCELERATOR = pool_pb2.Accelerator(id="a", index=3, type="H100")


def test_a_row_says_what_a_sample_says_and_nothing_of_what_it_does_not() -> None:
    samples = [sample(utilisation_percent=0.0, throttle_reasons=["a", "b"], xid=pool_pb2.Xid(code=79)), sample()]
    known, unknown = rows_of([*samples, pool_pb2.Sample(accelerator_id="other")], {"a": ACCELERATOR})
    assert (known["utilisation_percent"], known["throttle_reasons"], known["xid"]) == (0.0, "a, b", 79)
    assert (known["index"], known["type"], known["time_unix_s"]) == (3, "H100", 100.5)
    assert {unknown[name] for name in COLUMNS} == {None}


def test_a_frame_has_numbers_and_times() -> None:
    frame = as_frame(rows_of([sample(power_watts=70.0), sample()], {"a": ACCELERATOR}))
    assert list(frame["power_watts"].isna()) == [False, True]
    assert str(frame.index.dtype) in ("datetime64[ns, UTC]", "datetime64[us, UTC]", "datetime64[s, UTC]")
    assert frame.index[0].timestamp() == 100.5
    assert frame["power_watts"].dtype == "float64"
    empty = as_frame([])
    assert (len(empty), list(empty.columns)) == (0, list(frame.columns))


def test_a_table_has_a_line_for_each_accelerator() -> None:
    samples = [
        sample(
            utilisation_percent=97.4,
            memory_used_bytes=3 << 30,
            memory_total_bytes=80 << 30,
            power_watts=699.5,
            temperature_celsius=65.0,
            pcie_tx_bytes_per_s=26e9,
            throttle_reasons=["thermal limit"],
            xid=pool_pb2.Xid(code=79),
            ecc_errors_uncorrected=2,
        )
    ]
    header, line = metrics_table(rows_of(samples, {"a": ACCELERATOR})).splitlines()
    assert re.split(r"\s{2,}", header) == [
        "GPU",
        "ACCELERATOR",
        "BUSY",
        "MEMORY",
        "POWER",
        "TEMPERATURE",
        "PCIE TX / RX",
        "NOTES",
    ]
    assert re.split(r"\s{2,}", line) == [
        "3",
        "H100",
        "97%",
        "3.0 of 80 GiB",
        "700 W",
        "65 °C",
        "26000 / ? MB/s",
        "thermal limit, XID 79, 2 uncorrected ECC errors",
    ]
    assert metrics_table([]) == "no readings yet"


def test_a_session_returns_what_its_accelerators_did(running: Workplace) -> None:
    program = f"""
with nbgpu.attach("H100x2") as session:
    session.execute({BUSY!r})
    frame = session.samples(last_s=60)
    sys.modules["pandas"] = None
    rows = session.samples(last_s=60)
    try:
        session.samples(last_s=0)
    except nbgpu.Error as error:
        refused = error.message()
    print(json.dumps({{"ids": sorted(set(frame["accelerator_id"])), "most": float(frame["utilisation_percent"].max()),
                      "sorted": bool(frame.index.is_monotonic_increasing), "rows": type(rows).__name__,
                      "same": [row["time_unix_s"] for row in rows][:len(frame)] == list(frame["time_unix_s"]),
                      "refused": refused}}))
"""
    found = run(running, program)
    assert found["ids"] == ["sim-h100-0", "sim-h100-1"]
    assert found["most"] > 0
    assert (found["sorted"], found["rows"], found["same"]) == (True, "list", True)
    assert found["refused"] == "last_s is 0, and must be more than 0 and at most 3600"


def test_the_table_is_of_what_the_notebook_holds_else_of_all_there_is(running: Workplace) -> None:
    program = """
from nbgpu.live_metrics.table import newest_table
everything = newest_table()
with nbgpu.attach("H100x2") as session:
    print(json.dumps([everything, newest_table()]))
"""
    everything, held = run(running, program)
    assert [line.split()[0] for line in everything.splitlines()] == ["GPU", "0", "1", "2", "3"]
    assert [line.split()[0] for line in held.splitlines()] == ["GPU", "0", "1"]
    assert "H100 (simulated)" in held


def test_in_a_terminal_it_goes_on_over_itself_until_it_is_interrupted(running: Workplace) -> None:
    program = "from nbgpu.live_metrics.table import show_metrics; show_metrics(); print('left')"
    controller, terminal = pty.openpty()
    environ = running.environ(NBGPU_AGENT_DIR=str(running.folder))
    process = subprocess.Popen(
        [sys.executable, "-c", program], env=environ, stdin=terminal, stdout=terminal, stderr=terminal, cwd=running.root
    )
    os.close(terminal)
    shown = ""
    deadline = time.monotonic() + DEADLINE_S
    try:
        while "\x1b[5F\x1b[J" not in shown:  # back over a header and four lines
            assert time.monotonic() < deadline, shown
            if select.select([controller], [], [], 1)[0]:
                shown += os.read(controller, 4096).decode()
        process.send_signal(signal.SIGINT)
        while "left" not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([controller], [], [], 1)[0]:
                shown += os.read(controller, 4096).decode()
        assert process.wait(DEADLINE_S) == 0
        assert "Traceback" not in shown
    finally:
        process.kill()
        process.wait()
        os.close(controller)


FEED = """
import threading, time
from nbgpu.live_metrics.widget import Feed
class Shown:
    accelerators, problem = [], ""
    def __init__(self):
        self.messages, self.came = [], threading.Condition()
    def send(self, message):
        with self.came:
            self.messages.append(message)
            self.came.notify_all()
    def wait(self, count):
        with self.came:
            assert self.came.wait_for(lambda: len(self.messages) >= count, 30)
widget = Shown()
feed = Feed(widget)
"""


def test_charts_are_fed_while_they_are_shown_also_while_the_kernel_is_busy(running: Workplace) -> None:
    program = f"""{FEED}
feed.take({{"kind": "hidden"}}); feed.take("nonsense"); feed.take({{"kind": 3}})
assert not feed.is_running
feed.take({{"kind": "shown"}})
widget.wait(2)
deadline = time.monotonic() + 30
before = len(widget.messages)
while len(widget.messages) < before + 2 and time.monotonic() < deadline: pass  # a cell that computes
busy = len(widget.messages) - before
feed.take({{"kind": "hidden"}})
assert not feed.is_running
last = widget.messages[-1]["samples"]
print(json.dumps({{"busy": busy, "accelerators": widget.accelerators, "keys": sorted(last[0]),
                  "kinds": sorted({{m["kind"] for m in widget.messages}}),
                  "ids": [sample["accelerator_id"] for sample in last]}}))
"""
    found = run(running, program)
    assert found["busy"] >= 2
    assert [each["index"] for each in found["accelerators"]] == [0, 1, 2, 3]
    assert found["kinds"] == ["samples"]
    assert found["ids"] == [f"sim-h100-{index}" for index in range(4)]
    assert {"time_unix_s", "utilisation_percent", "memory_used_bytes"} <= set(found["keys"])


def test_what_is_wrong_stands_in_the_place_of_the_charts(place: Workplace) -> None:
    process, _ = place.start_embedded()
    program = f"""{FEED}
import os, signal
feed.take({{"kind": "shown"}})
widget.wait(1)
os.kill({process.pid}, signal.SIGTERM)
deadline = time.monotonic() + 30
while not widget.problem and time.monotonic() < deadline: time.sleep(0.01)
feed.stop()
print(json.dumps(widget.problem))
"""
    assert run(place, program)


def test_the_widget_is_a_table_where_there_are_no_widgets(running: Workplace) -> None:
    program = """
import importlib.util
charts = nbgpu.metrics()
bundle = charts._repr_mimebundle_()
data = bundle[0] if isinstance(bundle, tuple) else bundle
charts.close()
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "anywidget" else find(name, *rest)
print(json.dumps({"text": data["text/plain"], "kinds": sorted(data), "without": repr(nbgpu.metrics())}))
"""
    found = run(running, program)
    assert found["text"].startswith("GPU")
    assert "application/vnd.jupyter.widget-view+json" in found["kinds"]
    assert found["without"].splitlines()[-1] == "`pip install nbgpu[widgets]` draws charts here"


def test_the_widget_loads_nothing_from_elsewhere_and_makes_no_markup_of_names() -> None:
    folder = resources.files("nbgpu.live_metrics")
    script = folder.joinpath("widget.js").read_text(encoding="utf-8")
    style = folder.joinpath("widget.css").read_text(encoding="utf-8")
    assert re.findall(r"https?://[^'\"` ]+", script + style) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"\bimport\b|fetch\(|url\(|@import|innerHTML|insertAdjacent|outerHTML", script + style)
