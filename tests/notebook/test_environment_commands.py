"""`%gpu env`, `%gpu secret` and `--python`: what they take, and that no value of a variable is ever shown."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from nbgpu import environment_commands, errors
from nbgpu.environment_commands import EnvironmentCommands
from nbgpu.snapshot.attachment import Attachment

SECRET = "a-value-that-nobody-may-see"


@pytest.fixture
def attachment(monkeypatch: pytest.MonkeyPatch) -> Attachment:
    made = Attachment()
    monkeypatch.setattr(environment_commands, "this_notebook", lambda: SimpleNamespace(attachment=made))
    return made


@pytest.fixture
def commands(attachment: Attachment) -> EnvironmentCommands:
    return EnvironmentCommands(None)


def test_names_are_listed_and_values_never(
    commands: EnvironmentCommands, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands.env("")
    assert capsys.readouterr().out == (
        "sessions get no variables of this notebook's; `%gpu env -e NAME` and `%gpu secret NAME` add some\n"
    )
    monkeypatch.setenv("HF_HOME", SECRET)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    commands.env("-e HF_HOME")
    commands.secret("HF_TOKEN")
    capsys.readouterr()
    for command in (commands.env, commands.secret):
        command("")
        shown = capsys.readouterr()
        assert shown.out == "sessions get from this notebook: HF_HOME\nand as secrets, written nowhere: HF_TOKEN\n"
        assert SECRET not in shown.out + shown.err


def test_a_name_that_is_a_secret_is_not_listed_as_a_plain_one(
    commands: EnvironmentCommands, attachment: Attachment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", SECRET)
    commands.env("TOKEN")
    commands.secret("TOKEN")
    assert (attachment.variable_names, attachment.secret_names) == ([], ["TOKEN"])


@pytest.mark.parametrize(
    ("line", "rest", "taken"),
    [
        ("H100 --no-wait", "H100 --no-wait", False),
        ("--python any", "", True),
        ("H100 --python=any --no-sync", "H100 --no-sync", True),
        ("any", "any", False),
    ],
)
def test_any_python_is_taken_out_of_a_line_and_holds_from_then_on(
    commands: EnvironmentCommands, attachment: Attachment, line: str, rest: str, taken: bool
) -> None:
    assert commands.take_python(line).split() == rest.split()
    assert attachment.takes_any_python is taken
    commands.take_python("H100")
    assert attachment.takes_any_python is taken


@pytest.mark.parametrize("line", ["--python 3.12", "H100 --python", "--python --no-sync", "--python=anyone"])
def test_another_python_than_any_cannot_be_asked_for(commands: EnvironmentCommands, line: str) -> None:
    with pytest.raises(errors.CommandError, match="--python takes nothing but any"):
        commands.take_python(line)
