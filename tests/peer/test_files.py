"""Files of a run, on disks with and without room."""

from pathlib import Path

import pytest

from peer.errors import FileNotWritten
from peer.files import append_line, make_folder, replace_file, writing
from peer.records.rounds import read

FULL = Path("/dev/full")


def test_replaced_file_holds_the_new_content_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "summary.json"
    path.write_bytes(b"before")

    replace_file(path, b"after")

    assert path.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [path]


def test_file_that_cannot_be_replaced_keeps_its_content_and_is_named(tmp_path):
    folder = tmp_path / "summary.json"
    folder.mkdir()
    (folder / "kept").touch()

    with pytest.raises(FileNotWritten, match="summary.json cannot be written: .*make room"):
        replace_file(folder, b"after")

    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_line_on_a_full_disk_names_the_file():
    with pytest.raises(FileNotWritten, match="/dev/full cannot be written: No space left on device"):
        append_line(FULL, b"a line")


def test_errors_of_other_libraries_name_the_file_too():
    with pytest.raises(FileNotWritten, match="full cannot be written: torn"), writing(FULL, (ValueError,)):
        raise ValueError("torn")


def test_folder_without_room_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("peer.files._LEAST_FREE_BYTES", 1 << 62)

    with pytest.raises(FileNotWritten, match="runs cannot be written: less than"):
        make_folder(tmp_path / "runs")


def test_torn_line_of_rounds_is_left_out(tmp_path):
    path = tmp_path / "rounds.jsonl"
    append_line(path, b'{"run":"digits","peer":')

    assert read(path) == []
