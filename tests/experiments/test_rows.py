"""The file of an experiment's rows: written whole or not at all, and a damaged line is named."""

import json

import pytest

from experiments.depth import run as depth
from experiments.rows import append_row, read_rows
from vggnet.errors import RunError, StorageError


@pytest.mark.parametrize("damage", ['{"label": "B", "see', "", "3", '["label"]', "\0\0\0\0"])
def test_a_line_that_is_no_row_is_named(tmp_path, damage):
    """Oracle: the contract: the file, the number of the line and what to do."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"label": "A"}\n' + damage + "\n")
    with pytest.raises(RunError, match=r"rows\.jsonl, line 2: .*Remove the line"):
        read_rows(path)


def test_a_cut_letter_is_named(tmp_path):
    """Oracle: the contract, for bytes that are no UTF-8."""
    (tmp_path / "rows.jsonl").write_bytes(b'{"label": "\xc3')
    with pytest.raises(RunError, match="line 1"):
        read_rows(tmp_path / "rows.jsonl")


def test_the_command_says_so_in_one_line(tmp_path, capsys, command):
    """Oracle: exit code 2 and one line, as for every mistake."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"label": "A", "see')
    assert command(depth.main, data="digits", rows=path, out=tmp_path / "runs") == 2
    err = capsys.readouterr().err
    assert f"{path}, line 1" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_row_is_added_whole_or_not_at_all(tmp_path, monkeypatch):
    """Oracle: the bytes that were there, when the disk refuses the new file; else they and one line more."""
    path = tmp_path / "new" / "rows.jsonl"
    append_row(path, {"label": "A"})
    path.write_text(path.read_text().rstrip("\n"))  # as an editor may leave it
    append_row(path, {"label": "B"})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"label": "A"}, {"label": "B"}]

    def refuse(*paths):
        raise OSError("no space left on device")

    before = path.read_bytes()
    monkeypatch.setattr("vggnet.files.os.replace", refuse)
    with pytest.raises(StorageError, match="no space left"):
        append_row(path, {"label": "C"})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
