"""`%%gpu` cells in a real notebook kernel on a real agent: what the front end sees is what a local cell shows."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from notebook_kernel import Cell, NotebookKernel, notebook_kernel, wait_for_answers, without_colours


@pytest.fixture(scope="module")
def notebook(own_folders: Path) -> Iterator[NotebookKernel]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBGPU_SIMULATE", "H100x2,A10x1")
        with notebook_kernel(own_folders) as kernel:
            assert not kernel.run("%load_ext nbgpu").errors
            attached = kernel.run("%gpu attach H100")
            assert "attached to H100 (simulated)" in attached.text(), attached.messages
            yield kernel


def code(text: str) -> str:
    return textwrap.dedent(text).strip()


def outputs(cell: Cell) -> list[object]:
    """Returns what a cell shows, with streams joined and without what differs from run to run."""
    shown: list[object] = []
    for message in cell.messages:
        content = message["content"]
        if message["msg_type"] == "stream":
            if shown and isinstance(shown[-1], tuple) and shown[-1][0] == content["name"]:
                shown[-1] = (content["name"], shown[-1][1] + content["text"])
            else:
                shown.append((content["name"], content["text"]))
        elif message["msg_type"] == "execute_result":
            shown.append(("result", content["execution_count"] == cell.execution_count, content["data"]))
        elif message["msg_type"] == "error":
            shown.append(
                ("error", content["ename"], content["evalue"].partition(" (")[0])
            )  # (file, line) of a syntax error
        else:
            data = {key: value for key, value in content.get("data", {}).items() if not key.startswith("image/")}
            shown.append((message["msg_type"], data, content.get("metadata"), content.get("wait")))
    return shown


@pytest.mark.parametrize(
    "body",
    [
        "pass",
        "print('out')",
        "import sys\nfor i in range(5):\n    print(i); print(i, file=sys.stderr)",
        "6 * 7",
        "6 * 7;",
        "None",
        "import sys; sys.stdout.write('no newline')",
        "print('a\\rb\\x1b[31mred\\x1b[0m')",
        "import os; n = os.write(1, b'\\xff\\xfe raw bytes\\n')",
        "from IPython.display import HTML, display\ndisplay(HTML('<b>x</b>'), metadata={'k': 1})",
        "display({'application/x-own': {'deep': [1, 2]}, 'text/plain': 'own'}, raw=True)",
        "h = display('one', display_id=True)\nh.update('two')",
        "from IPython.display import clear_output\nprint('gone')\nclear_output(wait=True)\nprint('stays')",
        "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1))\nplt.plot([1, 2])\nplt.show()",
        "!echo from the shell",
        "x = !echo captured\nx",
        "import asyncio\nawait asyncio.sleep(0)\nprint('awaited')",
        "async def f():\n    return 3\nawait f()",
        "1/0",
        "def f():\n    raise KeyError('k')\nf()",
        "x = = 3",
        "import json; json.loads('{')",
        "%nosuchmagic",
        "raise ExceptionGroup('g', [ValueError(1)])" if "ExceptionGroup" in dir(__builtins__) else "pass",
        "assert False, 'told'",
        "class Own(Exception):\n    pass\nraise Own('mine')",
        "print('before')\nraise RuntimeError('after output')",
        "%%html\n<i>cell magic</i>",
        "%%capture c\nprint('hidden')",
        "get_ipython().display_formatter.format(3)",
        "_",
        "for i in range(3):\n    print(i, end='', flush=True)",
        "print('ü' * 3, '💡')",
        "from IPython.display import Markdown\nMarkdown('**b**')",
    ],
)
def test_a_cell_shows_what_a_local_one_shows(notebook: NotebookKernel, body: str) -> None:
    notebook.run("'so that _ is the same'")
    notebook.run("%%gpu\n'so that _ is the same'")
    local = notebook.run(body)
    notebook.run("'so that _ is the same'")
    remote = notebook.run(f"%%gpu\n{body}")
    assert [each for each in outputs(remote) if "ipykernel_" not in str(each)] == [
        each for each in outputs(local) if "ipykernel_" not in str(each)
    ]
    assert remote.reply["content"]["status"] == local.reply["content"]["status"]
    assert remote.reply["content"].get("ename") == local.reply["content"].get("ename")


def test_out_and_underscore_show_the_result_again(notebook: NotebookKernel) -> None:
    cell = notebook.run("%%gpu\n{'a': 1}")
    assert cell.result == "{'a': 1}"
    assert notebook.run("_").result == "{'a': 1}"
    assert notebook.run(f"Out[{cell.execution_count}]").result == "{'a': 1}"
    assert notebook.run(f"_{cell.execution_count}").result == "{'a': 1}"
    inside = notebook.run(f"%%gpu\nOut[{cell.execution_count}]['a'] + 1")
    assert inside.result == "2"


def test_variables_persist_between_cells(notebook: NotebookKernel) -> None:
    notebook.run("%%gpu\nkept = [1]")
    assert notebook.run("%%gpu H100\nkept.append(2); kept").result == "[1, 2]"


def test_a_traceback_numbers_lines_and_cells_as_the_person_sees_them(notebook: NotebookKernel) -> None:
    cell = notebook.run("%%gpu\n\ndef f(a):\n    return a / 0\n\nf(3)")
    (error,) = cell.errors
    text = "\n".join(error["traceback"])
    plain = without_colours(text)
    assert f"Cell In[{cell.execution_count}], line 6" in plain
    assert f"Cell In[{cell.execution_count}], line 4, in f(a)" in plain
    assert plain.count("ZeroDivisionError: division by zero") == 1
    assert "nbgpu" not in plain, "a frame of ours"


def test_the_real_exception_is_raised(notebook: NotebookKernel) -> None:
    cell = notebook.run(
        code("""
        import nbgpu, json
        session = nbgpu.attach()
        try:
            session.execute("import json\\njson.loads('{')")
        except json.JSONDecodeError as error:
            print(type(error).__name__, error.pos, error.doc)
        try:
            session.execute("class Own(Exception):\\n    code = 7\\nraise Own('mine') from ValueError('cause')")
        except Exception as error:
            print(type(error).__name__, error.code, repr(error.__cause__))
        try:
            session.execute("import threading\\nclass Locked(Exception): pass\\nraise Locked(threading.Lock())")
        except nbgpu.RemoteError as error:
            print(type(error).__name__, error.ename)
        """)
    )
    assert cell.text() == "JSONDecodeError 1 {\nOwn 7 ValueError('cause')\nLocked Locked\n", cell.messages


def test_run_all_stops_at_a_failing_cell(notebook: NotebookKernel) -> None:
    # A kernel drops what has arrived by the time of the error, so the error waits until the other request is there.
    failing = notebook.start("%%gpu\ninput()\n1/0", allow_stdin=True)
    following = notebook.start("print('not reached')")
    notebook.finish(failing, answers=("",))
    assert notebook.finish(following).reply["content"]["status"] == "aborted"


def test_input_and_getpass(notebook: NotebookKernel) -> None:
    cell = notebook.run(
        "%%gpu\nname = input('name? ')\nimport getpass\nsecret = getpass.getpass('word? ')\nprint(name, len(secret))",
        answers=("Ada", "hidden"),
    )
    prompts = [message["content"] for message in cell.messages if message["msg_type"] == "input_request"]
    assert [(each["prompt"], each["password"]) for each in prompts] == [("name? ", False), ("word? ", True)]
    assert cell.text() == "Ada 6\n"


def test_input_where_nobody_can_answer(notebook: NotebookKernel) -> None:
    cell = notebook.run("%%gpu\ninput('name? ')")
    assert cell.errors[0]["ename"] == notebook.run("input('name? ')").errors[0]["ename"] == "StdinNotImplementedError"


def test_output_of_a_thread_that_outlives_its_cell(notebook: NotebookKernel) -> None:
    cell = notebook.run(
        code("""
        %%gpu
        import threading
        go = threading.Event()
        def late():
            go.wait(30)
            print("late")
        threading.Thread(target=late).start()
        """)
    )
    notebook.client.execute("%%gpu\ngo.set()")
    message = notebook.wait_for(lambda each: "late" in str(each["content"].get("text")))
    own = cell.messages[0]["header"]["session"] if cell.messages else message["header"]["session"]
    assert message["header"]["session"] == own


def test_every_message_is_of_the_notebooks_own_kernel(notebook: NotebookKernel) -> None:
    """JupyterLab discards queued messages whenever the session in their headers changes."""
    local = notebook.run("print('x')").messages[0]["header"]["session"]
    cell = notebook.run("%%gpu\nprint('x')\nimport sys\nprint('y', file=sys.stderr)\n3")
    assert {message["header"]["session"] for message in cell.messages} == {local}
    assert all("nbgpu_request" not in message["parent_header"] for message in cell.messages)


def test_sixty_megabytes_in_one_line(notebook: NotebookKernel) -> None:
    cell = notebook.run("%%gpu\nprint('x' * 60_000_000)")
    text = cell.text()
    assert len(text) == 60_000_001
    assert text.strip("x") == "\n"


def test_twenty_thousand_lines_in_order(notebook: NotebookKernel) -> None:
    cell = notebook.run("%%gpu\nfor i in range(20_000):\n    print('line', i)")
    assert cell.text() == "".join(f"line {i}\n" for i in range(20_000))


def test_twenty_thousand_displays_in_order(notebook: NotebookKernel) -> None:
    cell = notebook.run("%%gpu\nfor i in range(20_000):\n    display({'text/plain': str(i)}, raw=True)")
    shown = [m["content"]["data"]["text/plain"] for m in cell.messages if m["msg_type"] == "display_data"]
    assert shown == [str(i) for i in range(20_000)]


def test_captured_and_redirected_output(notebook: NotebookKernel) -> None:
    notebook.run(
        "%%capture caught\n%%gpu\nprint('out')\ndisplay('shown')\nimport sys\nprint('err', file=sys.stderr)\n9"
    )
    assert notebook.run("print(caught.stdout, caught.stderr, len(caught.outputs), end='')").text() == "out\n err\n 2"
    cell = notebook.run(
        code("""
        import contextlib, io
        with contextlib.redirect_stdout(io.StringIO()) as held:
            nbgpu.attach().execute("print('held')")
        held.getvalue()
        """)
    )
    assert cell.result == r"'held\n'"


def test_comms_work_both_ways(notebook: NotebookKernel) -> None:
    cell = notebook.run(
        code("""
        %%gpu
        from comm import create_comm
        comm = create_comm(target_name="echo", data={"hello": 1})
        def answer(message):
            print("heard", message["content"]["data"])
            comm.send({"echo": message["content"]["data"]}, buffers=[bytes(reversed(bytes(message["buffers"][0])))])
        comm.on_msg(answer)
        """)
    )
    opened = next(message for message in cell.messages if message["msg_type"] == "comm_open")
    comm_id = opened["content"]["comm_id"]
    assert notebook.ask("comm_info_request", {"target_name": "echo"})["comms"] == {comm_id: {"target_name": "echo"}}
    message = notebook.client.session.msg("comm_msg", {"comm_id": comm_id, "data": {"n": 2}})
    message["buffers"] = [b"abc"]
    notebook.client.session.send(notebook.client.shell_channel.socket, message)
    parent = message["header"]["msg_id"]
    said: dict[str, dict[str, object]] = {}
    while "idle" not in said:  # the notebook is busy until the message is handled over there
        message = notebook.wait_for(lambda each: each["parent_header"].get("msg_id") == parent)
        said[message["content"].get("execution_state", message["msg_type"])] = message
    assert said["stream"]["content"]["text"] == "heard {'n': 2}\n"
    assert said["comm_msg"]["content"] == {"comm_id": comm_id, "data": {"echo": {"n": 2}}}
    assert [bytes(buffer) for buffer in said["comm_msg"]["buffers"]] == [b"cba"]
    notebook.run("%%gpu\ncomm.close()")
    assert notebook.ask("comm_info_request", {"target_name": "echo"})["comms"] == {}


def widget_states(notebook: NotebookKernel) -> dict[str, dict[str, object]]:
    """Asks for the states of all widgets as a page does that was loaded anew."""
    notebook.send_comm(
        "comm_open",
        {"comm_id": "control", "target_name": "jupyter.widget.control", "data": {}},
        {"version": "1.0.0"},
    )
    notebook.send_comm("comm_msg", {"comm_id": "control", "data": {"method": "request_states"}})
    answer = notebook.wait_for(lambda each: each["msg_type"] == "comm_msg" and each["content"]["comm_id"] == "control")
    data = answer["content"]["data"]
    assert data["method"] == "update_states"
    return {key: value["state"] for key, value in data["states"].items()}


def test_widgets_survive_a_page_refresh(notebook: NotebookKernel) -> None:
    notebook.run("%%gpu\nimport ipywidgets\nslider = ipywidgets.IntSlider(value=41)\nslider")
    assert [state["value"] for state in widget_states(notebook).values() if "value" in state] == [41]
    notebook.run("import ipywidgets\nhere = ipywidgets.IntSlider(value=7)")
    notebook.run("%%gpu\nother = ipywidgets.IntSlider(value=8)")
    values = [state["value"] for state in widget_states(notebook).values() if "value" in state]
    assert sorted(values) == [7, 8, 41]


def test_a_slider_moved_in_the_page_moves_in_the_session(notebook: NotebookKernel) -> None:
    cell = notebook.run("%%gpu\nimport ipywidgets\nmoved = ipywidgets.IntSlider(value=1)\nmoved.model_id")
    model_id = cell.result.strip("'") if cell.result else ""
    notebook.send_comm("comm_msg", {"comm_id": model_id, "data": {"method": "update", "state": {"value": 55}}})
    assert notebook.run("%%gpu\nmoved.value").result == "55"


def test_completion_and_inspection_of_remote_names(notebook: NotebookKernel) -> None:
    wait_for_answers(notebook)
    notebook.run("%%gpu --no-sync\nremote_only_name = {'key': 1}\ndef remote_function(a):\n    'What it does.'")
    cell = "%%gpu\nremote_only_na"
    found = notebook.ask("complete_request", {"code": cell, "cursor_pos": len(cell)})
    assert "remote_only_name" in found["matches"]
    cell = "%%gpu\nx = 1\nremote_only_name.ke"
    found = notebook.ask("complete_request", {"code": cell, "cursor_pos": len(cell)})
    assert (cell[: found["cursor_start"]] + found["matches"][0]).endswith("remote_only_name.keys")
    cell = "%%gpu\nremote_function"
    seen = notebook.ask("inspect_request", {"code": cell, "cursor_pos": len(cell), "detail_level": 0})
    assert "What it does." in seen["data"]["text/plain"]
    local = notebook.ask("complete_request", {"code": "remote_only_na", "cursor_pos": 14})
    assert local["matches"] == []


def complete(notebook: NotebookKernel, line: str) -> list[str]:
    found = notebook.ask("complete_request", {"code": line, "cursor_pos": len(line)})
    return [line[: found["cursor_start"]] + match for match in found["matches"]]


def test_commands_and_specs_are_completed(notebook: NotebookKernel) -> None:
    wait_for_answers(notebook)
    assert complete(notebook, "%gpu att") == ["%gpu attach"]
    assert {"%%gpu H100", "%%gpu H100x2"} <= set(complete(notebook, "%%gpu H1"))
    assert "%gpu attach A10" in complete(notebook, "%gpu attach A")


def test_help_is_there(notebook: NotebookKernel) -> None:
    pages = notebook.run("%gpu?").reply["content"]["payload"]
    assert "%gpu attach" in json.dumps(pages)


def test_help_of_a_remote_object(notebook: NotebookKernel) -> None:
    pages = notebook.run("%%gpu\nimport collections\ncollections.OrderedDict?").reply["content"]["payload"]
    assert "remembers insertion order" in json.dumps(pages)


def test_sticky_mode_runs_every_cell_there_and_says_so(notebook: NotebookKernel) -> None:
    notebook.run("where = 'here'")
    notebook.run("%%gpu --no-sync\nwhere = 'there'")
    assert "every cell now runs on H100" in notebook.run("%gpu on").text()
    try:
        cell = notebook.run("globals()['where']")
        assert cell.result == "'there'"
        assert cell.messages[0]["content"]["data"]["text/plain"] == "▸ on H100 (simulated)"
        failing = notebook.run("x = 1\n1/0")
        assert "line 2" in "".join(failing.errors[0]["traceback"])
        assert failing.errors[0]["ename"] == "ZeroDivisionError"
    finally:
        notebook.run("%gpu off")
    assert notebook.run("where").result == "'here'"


def test_the_session_sees_only_allowed_environment_variables(notebook: NotebookKernel) -> None:
    notebook.run("import os; os.environ['MY_SECRET_TOKEN'] = 'hush'")
    seen = notebook.run("%%gpu\nimport os, json\nprint(json.dumps(dict(os.environ)))").text()
    assert "hush" not in seen
    names = json.loads(seen)
    assert names["CUDA_VISIBLE_DEVICES"] == ""
    assert not {name for name in names if name.startswith(("JPY_SESSION", "NBGPU_AGENT"))}


@pytest.mark.parametrize(
    ("line", "ename", "said"),
    [
        ("%%gpu H300", "NoSuchAcceleratorError", "no H300 here; offered: simulated H100"),
        ("%%gpu H100x3", "CanNeverFitError", "H100x2"),
        ("%%gpu H100xx", "SpecError", "^"),
        ("%%gpu --wrong", "CommandError", "there is no option --wrong here"),
    ],
)
def test_what_cannot_be_is_said_at_once(notebook: NotebookKernel, line: str, ename: str, said: str) -> None:
    (error,) = notebook.run(f"{line}\nprint('never')").errors
    assert error["ename"] == ename
    assert said in error["traceback"][0]
    assert "hint:" in error["traceback"][0] or ename == "CommandError"
    assert len(error["traceback"]) == 1, "no frames of ours"


def test_commands_that_do_not_exist(notebook: NotebookKernel) -> None:
    (error,) = notebook.run("%gpu atach").errors
    assert "there is no command %gpu atach" in error["evalue"]
    assert "attach" in error["evalue"]


def test_status_offers_and_sessions(notebook: NotebookKernel) -> None:
    status = notebook.run("%gpu status").text()
    assert "H100 (simulated)" in status
    assert "idle" in status
    offers = notebook.run("%gpu offers").text()
    assert "1 of 2 free" in offers
    assert "CPU" in offers
    assert "this notebook" in notebook.run("%gpu sessions").text()


def test_a_plain_ipython_terminal(own_folders: Path, notebook: NotebookKernel, run_python: Callable[..., str]) -> None:
    program = code("""
        from IPython.testing.globalipapp import start_ipython
        shell = start_ipython()
        shell.run_line_magic("load_ext", "nbgpu")
        shell.run_cell("%%gpu A10\\nprint('out')\\ndisplay('shown')\\n6 * 7", store_history=True)
        shell.run_cell("print('again', _)", store_history=True)
        shell.run_cell("%%gpu\\n1/0", store_history=True)
        shell.run_cell("%gpu close")
    """)
    text = without_colours(run_python(program))
    assert "out\n" in text
    assert "'shown'" in text
    assert "42" in text
    assert "again 42" in text
    assert text.count("ZeroDivisionError: division by zero") == 1
    assert "closed session" in text


def test_a_traceback_tells_the_cell_of_a_function_that_the_notebook_defined(notebook: NotebookKernel) -> None:
    defined = notebook.run("def divide(x):\n    return 1 / x")
    [error] = notebook.run("%%gpu\ndivide(0)").errors
    shown = without_colours("\n".join(error["traceback"]))
    assert f"Cell In[{defined.execution_count}], line 2, in divide(x)" in shown
    assert "----> 2     return 1 / x" in shown
