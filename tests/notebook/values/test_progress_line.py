"""The line that tells how far a transfer is: nothing for a short one, and the whole when it is done."""

from __future__ import annotations

import pytest

from nbgpu.values import transfer
from nbgpu.values.transfer import progress_line


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_QUIET_S", 0.0)
    monkeypatch.setattr(transfer, "_REPORT_INTERVAL_S", 0.0)


@pytest.mark.usefixtures("at_once")
def test_it_ends_with_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_line("sending", 1000) as report:
        report(930)
    assert capsys.readouterr().err == "\rnbgpu: sending 1.0 KB: 93%\rnbgpu: sending 1.0 KB: 100%\n"


@pytest.mark.usefixtures("at_once")
def test_one_that_fails_stays_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    def be_interrupted() -> None:
        with progress_line("sending", 1000) as report:
            report(930)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    assert capsys.readouterr().err == "\rnbgpu: sending 1.0 KB: 93%\n"


def test_a_short_one_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_line("sending", 1000) as report:
        report(930)
    assert capsys.readouterr().err == ""
