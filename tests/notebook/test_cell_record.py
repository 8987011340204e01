"""What the agent is told of a cell beside its code, and by what its notebook is known again."""

import io
import json
import sys

import pytest

from nbgpu.cell_record import MAX_SHOWN_CHARACTERS, CellRecord, source_digest
from nbgpu.notebook_key import notebook_key


def test_what_is_written_before_the_code_is_sent_is_taken_down_and_shown_all_the_same(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with CellRecord("%%gpu\n1") as record:
        print("nbgpu: one", file=sys.stderr, flush=True)
        record.note_display({"text/plain": "x"})
        print("nbgpu: two", file=sys.stderr)
        taken = record.take()
        assert sys.stderr is stream
        print("later", file=sys.stderr)
    assert stream.getvalue() == "nbgpu: one\nnbgpu: two\nlater\n"
    assert taken["source_digest"] == source_digest("%%gpu\n1")
    assert json.loads(taken["shown_before"]) == [
        {"output_type": "stream", "name": "stderr", "text": "nbgpu: one\n"},
        {"output_type": "display_data", "data": {"text/plain": "x"}, "metadata": {}},
        {"output_type": "stream", "name": "stderr", "text": "nbgpu: two\n"},
    ]


def test_a_cell_that_fails_before_leaves_the_stream_as_it_was(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(ValueError, match="spec"), CellRecord("%%gpu"):
        raise ValueError("spec")
    assert sys.stderr is stream


def test_what_was_cleared_is_not_told():
    record = CellRecord("%%gpu")
    record.note_text("gone")
    record.note_cleared()
    assert record.take() == {"source_digest": source_digest("%%gpu")}


def test_neither_is_what_is_too_long_or_of_no_cell():
    record = CellRecord("%%gpu")
    record.note_text("x" * MAX_SHOWN_CHARACTERS)
    assert "shown_before" not in record.take()
    record = CellRecord("")
    record.note_text("x")
    assert record.take() == {}


def test_a_notebook_has_the_same_key_by_every_way_to_its_file_and_another_one_for_another_person(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "one"))
    (tmp_path / "link").symlink_to(tmp_path)
    key = notebook_key(tmp_path / "a.ipynb")
    assert key == notebook_key(tmp_path / "link/a.ipynb") == notebook_key(str(tmp_path / "x/../a.ipynb"))
    assert key != notebook_key(tmp_path / "b.ipynb")
    assert notebook_key("") == ""
    (number,) = (tmp_path / "one/nbgpu").iterdir()
    assert number.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "two"))
    assert notebook_key(tmp_path / "a.ipynb") not in ("", key)


def test_there_is_none_where_no_number_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "file/folder"))
    assert notebook_key(tmp_path / "a.ipynb") == ""
