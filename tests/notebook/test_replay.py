"""What is shown again of a cell is what its notebook showed: the same messages go both ways."""

import base64
import json
import pickle

import pytest

from nbgpu import errors
from nbgpu.client.connection import Message
from nbgpu.client.journal import Beginning, Recorded
from nbgpu.execution import Request
from nbgpu.remote_exceptions import rendered
from nbgpu.replay import Output, joined
from nbgpu.server.page_replay import PageReplay
from nbgpu_kernel.ranks import spmd_replies
from nbgpu_protocol.v1 import pool_pb2, session_pb2

FIRST = 11
ZERO = {"ename": "ZeroDivisionError", "evalue": "division by zero", "traceback": ["-----", "line 1", "\x1b[31mZero"]}
PAGE = {"source": "page", "data": {"text/plain": "help"}, "start": 0}


def message(kind, channel=session_pb2.IOPUB, request="r1", msg_id="m1", **content):
    parent = {"msg_id": msg_id, "nbgpu_request": request}
    return Message(channel, {"msg_type": kind}, parent, memoryview(b"{}"), memoryview(json.dumps(content).encode()))


def stream(text, name="stdout", **options):
    return message("stream", name=name, text=text, **options)


def reply(status="ok", **content):
    return message("execute_reply", session_pb2.SHELL, status=status, **content)


IDLE = message("status", execution_state="idle")
TIMED_OUT = session_pb2.CellTimedOut(request_id="r1", timeout_s=90)
UNSENDABLE = {"kind": "unsendable", "text": "the lock `lock` cannot be sent"}
INTERRUPTED = {
    "kind": "interrupted",
    "world_size": 2,
    "hostname": "lab-1",
    "places": {},
    "failures": [{"rank": 1}, {"rank": 0}],
}
SCRIPTS = {
    "what a cell prints and displays": [
        message("status", execution_state="busy"),
        message("execute_input", code="1", execution_count=2),
        stream("a"),
        stream("b", name="stderr"),
        message("display_data", data={"text/plain": "x"}, metadata={}, transient={"display_id": "d"}),
        message("update_display_data", data={"text/plain": "y"}, metadata={}, transient={"display_id": "d"}),
        message("clear_output", wait=True),
        message("execute_result", data={"text/plain": "1"}, metadata={}, execution_count=2),
        message("nbgpu_values"),
        IDLE,
        reply(),
    ],
    "what another cell's thread prints meanwhile": [stream("other", request="r0", msg_id="m0"), reply(), IDLE],
    "an error": [stream("a"), message("error", **ZERO), reply("error", **ZERO), IDLE],
    "an error that was told on standard error": [stream("no such file", name="stderr"), reply("error", **ZERO), IDLE],
    "an error that a widget took, or that was shown by hand": [message("error", **ZERO), stream("on"), IDLE, reply()],
    "an error shown by hand last": [message("error", **ZERO), IDLE, reply()],
    "a page of help": [IDLE, reply(payload=[PAGE])],
    "a cell that timed out": [stream("a"), TIMED_OUT, message("error", **ZERO), IDLE, reply("error", **ZERO)],
    "ranks that cannot be sent a value": [IDLE, reply("error", **{spmd_replies.FIELD: UNSENDABLE})],
    "ranks that were interrupted": [IDLE, reply("error", **{spmd_replies.FIELD: INTERRUPTED})],
    "a cell that was dropped": [IDLE, reply("aborted")],
}


class Collector:
    immediate = True

    def __init__(self):
        self.shown = []

    def publish(self, message):
        self.shown.append({"msg_type": message.type, "content": message.content()})


def live(script):
    """Returns what the notebook's kernel shows of it."""
    collector = Collector()
    request = Request({}, "client", collector)
    request.id = "r1"
    for each in script:
        if isinstance(each, session_pb2.CellTimedOut):
            request.note_timeout(each)
        elif each.parent_header["nbgpu_request"] == request.id:
            request.deliver(each)
    try:
        request.wait()
        request.outcome()
        shown = [
            {"msg_type": "display_data", "content": {"data": PAGE["data"], "metadata": {}}} for _ in request.payloads
        ]
    except BaseException as error:  # noqa: BLE001 - a KeyboardInterrupt among them
        content = {"ename": type(error).__name__, "evalue": str(error), "traceback": rendered(error)}
        shown = [{"msg_type": "error", "content": content}] if content["traceback"] else []
    return [*collector.shown, *shown]


def entries(script):
    for number, each in enumerate(script, FIRST):
        yield Recorded(number, each)


def as_messages(outputs):
    return [{"msg_type": each.kind, "content": each.content} for each in outputs]


def execution(**fields):
    return pool_pb2.Execution(**{"request_id": "r1", "message_id": "m1", "first_number": FIRST, **fields})


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_the_same_is_shown_as_in_the_notebook(script):
    replay = PageReplay(execution(), 0)
    assert replay.after_number == FIRST - 1
    pieces = [[Beginning(0, 0)], *([each] for each in entries(script))]
    assert as_messages(output for piece in pieces for output in replay.take(piece)) == live(script)
    assert replay.is_over


def test_it_is_known_when_what_comes_is_new():
    replay = PageReplay(execution(), FIRST + 1)
    assert replay.take([Beginning(FIRST + 1, 0), Recorded(FIRST, stream("a"))]) != []
    assert not replay.is_caught_up
    replay.take([Recorded(FIRST + 1, stream("b"))])
    assert replay.is_caught_up
    assert not replay.is_over


def test_what_is_told_to_others_counts_for_it():
    replay = PageReplay(execution(), FIRST + 1)
    assert replay.take([Beginning(FIRST + 1, 0), Recorded(FIRST, stream("a")), Recorded(FIRST + 1, None)]) != []
    assert replay.is_caught_up


def test_one_that_waits_for_others_begins_where_the_journal_ends():
    assert PageReplay(execution(first_number=0), 40).after_number == 40


def test_what_the_notebook_showed_before_comes_first():
    outputs = [
        {"output_type": "stream", "name": "stderr", "text": "nbgpu: no GPU is offered here\n"},
        {"output_type": "display_data", "data": {"text/plain": "▸ on CPU"}, "metadata": {}},
    ]
    shown = PageReplay(execution(shown_before=json.dumps(outputs)), 0).take([Beginning(0, 0)])
    assert as_messages(shown) == [
        {"msg_type": "stream", "content": {"name": "stderr", "text": "nbgpu: no GPU is offered here\n"}},
        {"msg_type": "display_data", "content": {"data": {"text/plain": "▸ on CPU"}, "metadata": {}}},
    ]
    assert PageReplay(execution(shown_before="no JSON"), 0).take([Beginning(0, 0)]) == []


def test_what_is_not_there_any_more_is_said():
    replay = PageReplay(execution(), 20)
    shown = replay.take(
        [Beginning(20, 13), Recorded(0, session_pb2.Gap(until_number=13)), Recorded(14, stream("late"))]
    )
    text = "nbgpu: 3 messages of the session were dropped by the agent before they could be fetched\n"
    assert [each.content["text"] for each in shown] == [text, "late"]
    assert replay.dropped == 3


@pytest.mark.parametrize(
    ("said", "ename", "words"),
    [
        (
            session_pb2.KernelEvent(kind=session_pb2.KernelEvent.ENDED, exit={"signal": 9}),
            "KernelDiedError",
            "killed by SIGKILL",
        ),
        (session_pb2.SessionClosed(reason="it was idle"), "SessionClosedError", "it was idle"),
        (
            session_pb2.RequestRefused(request_id="r1", error={"message": "no kernel"}),
            "AgentFaultError",
            "no kernel",
        ),
    ],
)
def test_a_cell_that_ended_without_an_answer_fails_as_in_the_notebook(said, ename, words):
    replay = PageReplay(execution(), 0)
    (shown,) = replay.take([Beginning(0, 0), Recorded(FIRST, said)])
    content = shown.content
    assert replay.is_over
    assert (shown.kind, content["ename"]) == ("error", ename)
    assert words in content["evalue"]
    assert content["traceback"] == [f"\x1b[31m{ename}\x1b[0m: {content['evalue']}"]
    assert issubclass(getattr(errors, ename), errors.Error)


def test_one_that_has_ended_does_not_wait_for_an_end_that_is_lost():
    replay = PageReplay(execution(ended_unix_s=5.0), FIRST)
    shown = replay.take([Beginning(FIRST, 0), Recorded(FIRST, stream("a"))])
    assert replay.is_over
    assert [each.kind for each in shown] == ["stream", "error"]


def test_text_is_joined_only_where_nothing_is_between():
    pieces = [stream("a"), stream("b"), stream("c", name="stderr"), stream("d"), message("clear_output"), stream("e")]
    outputs = [Output(each.type, each.content()) for each in pieces]
    assert [(each.kind, each.content.get("text")) for each in joined(outputs)] == [
        ("stream", "ab"),
        ("stream", "c"),
        ("stream", "d"),
        ("clear_output", None),
        ("stream", "e"),
    ]


class Trap:
    """Makes a file when its pickle is opened."""

    def __init__(self, path):
        self._path = path

    def __reduce__(self):
        return open, (self._path, "w")


@pytest.mark.parametrize("is_of_ranks", [False, True])
def test_no_pickle_is_opened(tmp_path, is_of_ranks):
    packed = base64.b64encode(pickle.dumps(Trap(str(tmp_path / "opened")))).decode()
    if is_of_ranks:
        failures = [{"rank": 1, "exception": packed, "chain": []}]
        answer = reply("error", **{spmd_replies.FIELD: {**INTERRUPTED, "failures": failures}})
    else:
        answer = reply("error", nbgpu_exception=packed, **ZERO)
    shown = PageReplay(execution(), 0).take([Beginning(0, 0), *entries([message("error", **ZERO), IDLE, answer])])
    assert [each.kind for each in shown] == ["error"]
    assert not (tmp_path / "opened").exists()
