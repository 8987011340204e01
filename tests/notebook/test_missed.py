"""The output of an execution put together again, what is shown of it, and what is said of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from nbgpu import missed, output_area
from nbgpu.client.connection import Message
from nbgpu.client.journal import Said
from nbgpu.errors import CommandError
from nbgpu.missed import first_line
from nbgpu.output_area import OutputArea, elsewhere
from nbgpu.replay import Output, Replay, names_in
from nbgpu.stage import BURST_BYTES, BYTES_PER_S, Stage
from nbgpu_kernel.ranks import spmd_replies
from nbgpu_protocol.v1 import pool_pb2, session_pb2

REPLY = {"status": "ok", "payload": []}
EXECUTION = pool_pb2.Execution(request_id="r", message_id="asked")
IDLE = {"execution_state": "idle"}


def message(kind: str, content: dict[str, Any], channel: int = session_pb2.IOPUB) -> Message:
    raw = memoryview(json.dumps(content).encode())
    return Message(channel, {"msg_type": kind, "msg_id": "m"}, {"msg_id": "asked"}, memoryview(b"{}"), raw)


def stream(text: str, name: str = "stdout") -> Message:
    return message("stream", {"name": name, "text": text})


def display(text: str, display_id: str = "", kind: str = "display_data") -> Message:
    transient = {"display_id": display_id} if display_id else {}
    return message(kind, {"data": {"text/plain": text}, "metadata": {}, "transient": transient})


def put_together(*said: Said) -> tuple[Replay, OutputArea]:
    replay, area = Replay(EXECUTION), OutputArea()
    for each in said:
        add(replay, area, each)
    return replay, area


def add(replay: Replay, area: OutputArea, said: Said) -> None:
    for output in replay.take(said):
        area.add(elsewhere(output))


def replay_of(*said: Said) -> Replay:
    return put_together(*said)[0]


def area_of(*said: Said) -> OutputArea:
    return put_together(*said)[1]


def texts(outputs: Sequence[Output]) -> list[str]:
    return [each.content["text"] if each.kind == "stream" else each.content["data"]["text/plain"] for each in outputs]


def test_neighbouring_pieces_of_a_stream_are_one_and_all_stands_in_its_order() -> None:
    made = area_of(
        stream("a"), stream("b\n"), stream("wrong", "stderr"), stream("c"), display("figure"), stream("d"), stream("e")
    )
    assert texts(made.outputs()) == ["ab\n", "wrong", "c", "figure", "de"]
    assert [each.content.get("name") for each in made.outputs()] == ["stdout", "stderr", "stdout", None, "stdout"]


def test_what_was_cleared_is_gone_at_once_or_with_what_follows() -> None:
    assert texts(area_of(stream("a"), message("clear_output", {"wait": False})).outputs()) == []
    replay, waiting = put_together(stream("a"), message("clear_output", {"wait": True}))
    assert texts(waiting.outputs()) == ["a"]
    add(replay, waiting, stream("b"))
    assert texts(waiting.outputs()) == ["b"]


def test_a_display_stands_as_it_was_last_updated() -> None:
    made = area_of(
        display("0 %", "bar"),
        stream("between"),
        display("50 %", "bar", "update_display_data"),
        display("100 %", "bar", "update_display_data"),
        display("of an earlier cell", "other", "update_display_data"),
    )
    assert texts(made.outputs()) == ["100 %", "between", "of an earlier cell"]
    assert [each.kind for each in made.outputs()] == ["display_data", "stream", "update_display_data"]
    assert made.outputs()[0].display_id == "bar"


def test_a_result_is_a_display_and_a_widget_is_its_text() -> None:
    result = {"data": {"text/plain": "5"}, "metadata": {}, "execution_count": 3}
    widget = {"data": {output_area.WIDGET_TYPE: {"model_id": "x"}, "text/plain": "a bar"}, "metadata": {}}
    first, second = area_of(message("execute_result", result), message("display_data", widget)).outputs()
    assert (first.kind, "execution_count" in first.content) == ("display_data", False)
    assert second.content["data"] == {"text/plain": "a bar"}


def test_an_error_is_its_traceback() -> None:
    error = {"ename": "ValueError", "evalue": "no", "traceback": ["Traceback", "ValueError: no"]}
    answer = message("execute_reply", {"status": "error", **error}, session_pb2.SHELL)
    made, area = put_together(message("error", error), answer, message("status", IDLE))
    assert texts(area.outputs()) == ["Traceback\nValueError: no\n"]
    assert (made.is_over, made.error_name) == (True, "ValueError")
    lost = area_of(answer, message("status", IDLE))
    assert texts(lost.outputs()) == ["Traceback\nValueError: no\n"]
    told = area_of(stream("no such magic\n", "stderr"), answer, message("status", IDLE))
    assert texts(told.outputs()) == ["no such magic\n"]


def test_an_error_that_was_not_the_last_word_stands_where_it_was() -> None:
    error = {"ename": "ValueError", "evalue": "shown in a widget", "traceback": ["ValueError: shown in a widget"]}
    made = area_of(stream("before\n"), message("error", error), stream("after\n"))
    assert texts(made.outputs()) == ["before\n", "ValueError: shown in a widget\n", "after\n"]
    replay, lost = put_together(message("error", error))
    assert lost.outputs() == []  # as long as the reply may say more
    add(replay, lost, session_pb2.KernelEvent(kind=session_pb2.KernelEvent.ENDED, exit={"signal": 9}))
    (text,) = texts(lost.outputs())
    first, second = text.splitlines()[:2]
    assert first == "ValueError: shown in a widget"
    assert "KernelDiedError" in second
    assert "killed by SIGKILL" in second


def test_a_failure_on_ranks_is_told_once() -> None:
    outcome = {"kind": "unsendable", "text": "a generator cannot be sent"}
    error = {"ename": "RankFailedError", "evalue": "", "traceback": ["RankFailedError: "]}
    reply = {"status": "error", **error, spmd_replies.FIELD: outcome}
    made = area_of(message("error", error), message("execute_reply", reply, session_pb2.SHELL), message("status", IDLE))
    (text,) = texts(made.outputs())
    assert "NotPicklableError\x1b[0m: a generator cannot be sent" in text
    assert "RankFailedError" not in text


def test_a_timeout_is_told_in_the_place_of_the_interrupt() -> None:
    error = {"ename": "KeyboardInterrupt", "evalue": "", "traceback": ["where it was", "KeyboardInterrupt"]}
    made, area = put_together(
        session_pb2.CellTimedOut(request_id="r", timeout_s=90),
        message("error", error),
        message("execute_reply", {"status": "error", **error}, session_pb2.SHELL),
        message("status", IDLE),
    )
    (text,) = texts(area.outputs())
    assert "KeyboardInterrupt" not in text
    assert text.startswith("where it was\n")
    assert "after its timeout of 1 min 30 s" in text
    execution = ended(pool_pb2.EXECUTION_FAILED)
    assert missed.outcome_in_words(execution, 0, made) == "was interrupted after its timeout of 1 min 30 s"


def test_a_question_stands_until_something_else_is_said() -> None:
    question = message("input_request", {"prompt": "go on? ", "password": False}, session_pb2.STDIN)
    made = replay_of(stream("a"), question, message("status", {"execution_state": "busy"}))
    assert made.question is question
    made.take(stream("b"))
    assert made.question is None


def test_of_much_output_the_end_is_shown_and_the_rest_is_counted() -> None:
    lines = [f"line {number}\n" for number in range(output_area.MAX_LINES + 500)]
    made = area_of(stream("first\n", "stderr"), *map(stream, lines))
    excerpt = made.excerpt()
    assert texts(excerpt.outputs) == ["".join(lines[500:])]
    assert excerpt.left_out_lines == 501
    execution = pool_pb2.Execution(request_id="0123456789abcdef")
    said = missed.left_out_in_words(excerpt, execution, "%gpu output")
    assert said == "… 501 lines before this are left out here; `%gpu output 01234567` shows all"
    assert "".join(texts(made.outputs())) == "first\n" + "".join(lines)


def test_little_output_is_shown_whole() -> None:
    made = area_of(stream("x" * (output_area.MAX_CHARACTERS - 10) + "\n"), display("figure"), stream("end"))
    excerpt = made.excerpt()
    assert list(excerpt.outputs) == made.outputs()
    assert missed.left_out_in_words(excerpt, pool_pb2.Execution(), "%gpu output") == ""


def test_of_a_line_without_an_end_the_last_redrawing_is_shown() -> None:
    bars = "".join(f"\r{number:>10} of many" for number in range(output_area.MAX_CHARACTERS // 10))
    excerpt = area_of(stream(bars)).excerpt()
    assert texts(excerpt.outputs) == [bars[bars.rindex("\r") + 1 :]]
    assert excerpt.left_out_lines == 1
    unbroken = area_of(stream("y" * (output_area.MAX_CHARACTERS + 5))).excerpt()
    assert texts(unbroken.outputs) == ["y" * output_area.MAX_CHARACTERS]


def test_of_many_displays_the_last_are_shown() -> None:
    excerpt = area_of(*(display(str(number)) for number in range(output_area.MAX_DISPLAYS + 3))).excerpt()
    assert texts(excerpt.outputs)[0] == "3"
    assert excerpt.left_out_displays == 3


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("# %%gpu H100\nimport torch\nfrom x import y\n\n  train(model)\nmore()", "train(model)"),
        ("# only\nimport torch", "import torch"),
        ("%time f()", "%time f()"),
        ("", ""),
        ("x = " + "1" * 100, "x = " + "1" * 55 + "…"),
    ],
)
def test_a_cell_is_known_by_the_first_line_that_says_something(code: str, line: str) -> None:
    assert first_line(code) == line


def test_names_are_those_that_came_back() -> None:
    values = {"parcels": [{"names": ["b", "a"]}], "handles": {"model": {}}, "modules": {"time": "time"}}
    assert names_in(values) == ("a", "b", "model")


# Which are missed, and how they are told of


def ended(state: pool_pb2.ExecutionState, **fields: Any) -> pool_pb2.Execution:
    return pool_pb2.Execution(state=state, started_unix_s=100, ended_unix_s=192, **fields)


def test_missed_is_what_nobody_was_shown_and_nobody_else_waits_for() -> None:
    executions = [
        pool_pb2.Execution(request_id="shown", shown=True),
        pool_pb2.Execution(request_id="mine"),
        pool_pb2.Execution(request_id="nobody's"),
        pool_pb2.Execution(request_id="an earlier process's", attended=True, notebook_id="this"),
        pool_pb2.Execution(request_id="another notebook's", attended=True, notebook_id="other"),
        pool_pb2.Execution(request_id="a terminal's", attended=True),
    ]
    found = missed.missed(executions, "this", lambda request_id: request_id == "mine")
    assert [each.request_id for each in found] == ["nobody's", "an earlier process's"]
    assert [each.request_id for each in missed.missed(executions, "", lambda _: False)] == ["mine", "nobody's"]


def test_a_cell_is_found_by_the_newest_of_its_number_or_by_its_id() -> None:
    executions = [
        pool_pb2.Execution(request_id=request_id, execution_count=count)
        for request_id, count in (("aa11", 3), ("bb22", 4), ("cc33", 3), ("12345678", 9))
    ]

    def found(*given: str) -> str:
        return missed.find(executions, given, "%gpu output").request_id

    assert [found(), found("3"), found("[4]"), found("AA"), found("12345678")] == [
        "12345678", "cc33", "bb22", "aa11", "12345678",
    ]  # fmt: skip
    for given in (("5",), ("zz",), ("1", "2"), ("--all",)):
        with pytest.raises(CommandError, match="%gpu output --list"):
            missed.find(executions, given, "%gpu output")


@pytest.mark.parametrize(
    ("execution", "words"),
    [
        (ended(pool_pb2.EXECUTION_SUCCEEDED), "ran for 1:32"),
        (ended(pool_pb2.EXECUTION_FAILED), "failed after 1:32"),
        (ended(pool_pb2.EXECUTION_LOST), "did not come to its end: its kernel ended after 1:32"),
        (pool_pb2.Execution(state=pool_pb2.EXECUTION_WAITING), "waits for its turn"),
        (
            pool_pb2.Execution(state=pool_pb2.EXECUTION_RUNNING, started_unix_s=940),
            "still runs, for 1:00 so far",
        ),
    ],
)
def test_how_an_execution_ended(execution: pool_pb2.Execution, words: str) -> None:
    assert missed.outcome_in_words(execution, 1000) == words


def test_how_an_execution_ended_by_its_output() -> None:
    for name, words in (("ValueError", "raised ValueError after 1:32"), ("KeyboardInterrupt", "was interrupted")):
        made = replay_of(message("execute_reply", {"status": "error", "ename": name}, session_pb2.SHELL))
        assert missed.outcome_in_words(ended(pool_pb2.EXECUTION_FAILED), 0, made).startswith(words)
    made = replay_of(session_pb2.KernelEvent(kind=session_pb2.KernelEvent.ENDED, exit={"signal": 9}))
    assert "killed by SIGKILL" in missed.outcome_in_words(ended(pool_pb2.EXECUTION_LOST), 0, made)


def test_values_are_offered_as_long_as_their_kernel_lives() -> None:
    session = pool_pb2.SessionInfo(kernel_generation=2, kernel_state=pool_pb2.KERNEL_IDLE)
    made = replay_of(message("nbgpu_values", {"handles": dict.fromkeys("abcdefghij")}))
    here = ended(pool_pb2.EXECUTION_SUCCEEDED, kernel_generation=2)
    said = missed.bound_in_words(made, here, session)
    assert "`%gpu pull a b c d e f g h`" in said
    assert said.endswith("as are 2 more")
    gone = missed.bound_in_words(made, ended(pool_pb2.EXECUTION_SUCCEEDED, kernel_generation=1), session)
    assert gone == "what it bound went with its kernel: a b c d e f g h and 2 more"
    assert missed.bound_in_words(made, ended(pool_pb2.EXECUTION_FAILED, kernel_generation=2), session) == ""
    assert missed.bound_in_words(Replay(EXECUTION), here, session) == ""


def test_many_executions_are_told_of_by_the_last() -> None:
    executions = [ended(pool_pb2.EXECUTION_SUCCEEDED, execution_count=number) for number in range(1, 14)]
    lines = missed.brief(executions, ["f()"] * 13, 0)
    assert lines[0] == "    3 more before these"
    assert lines[-1] == "    cell [13] `f()` ran for 1:32"
    assert len(lines) == 11
    status = missed.status_in_words(executions, 0)
    assert status.startswith("not shown yet: 10 more cells, cell [11] ran for 1:32")
    assert "\n" not in status
    assert missed.status_in_words([], 0) == ""


# Where it is shown


class Screen:
    """A front end: what stands below a cell."""

    immediate = True

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.waits = False
        self.parents: set[str] = set()

    def publish(self, message: Message) -> None:
        self.parents.add(message.parent_header["msg_id"])
        content = message.content()
        if message.type == "clear_output" and content["wait"]:
            self.waits = True
            return
        if self.waits or message.type == "clear_output":
            self.shown, self.waits = [], False
        if message.type != "clear_output":
            self.shown += texts([Output(message.type, content)])

    def show_result(self, result: Any) -> None:
        raise AssertionError("a replay has no result")

    def show_payload(self, payload: Any) -> None:
        raise AssertionError("nor has it payloads")


def test_what_a_followed_cell_clears_is_its_own() -> None:
    screen = Screen()
    stage = Stage(screen)
    stage.say("▸ cell [3]")
    stage.show(Output("stream", {"name": "stdout", "text": "before"}))
    stage.let_clear()
    for percent in (0, 50, 100):
        stage.show(Output("clear_output", {"wait": percent != 50}))
        if percent == 50:
            assert screen.shown == ["▸ cell [3]\n", "before"]
        stage.show(Output("stream", {"name": "stdout", "text": f"{percent} %"}))
    assert screen.shown == ["▸ cell [3]\n", "before", "100 %"]
    assert len(screen.parents) == 1


def test_a_flood_is_shown_at_the_pace_that_a_server_takes() -> None:
    screen, slept = Screen(), []
    now_s = [0.0]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now_s[0] += seconds

    stage = Stage(screen, sleep, lambda: now_s[0])
    text = "z" * BURST_BYTES
    stage.show(Output("stream", {"name": "stdout", "text": text}))
    assert sum(slept) == pytest.approx(0)
    stage.show(Output("stream", {"name": "stdout", "text": text}))
    assert sum(slept) == pytest.approx(BURST_BYTES / BYTES_PER_S)
    assert "".join(screen.shown) == text * 2
