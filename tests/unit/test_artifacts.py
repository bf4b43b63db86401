"""Artifacts are complete or not there, and a path that cannot be written is named in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from secateurs.artifacts import read_json, write, write_json
from secateurs.errors import CheckpointError


def test_a_failed_write_keeps_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_json(path, {"a": 1})

    def half(partial: Path) -> None:
        partial.write_text("{")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match=r"cannot write .*values\.json: No space left on device"):
        write(path, half)
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_parent_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*file/values\.json: (File exists|Not a directory)"):
        write_json(tmp_path / "file" / "values.json", {})


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "values.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"values\.json cannot be read"):
        read_json(tmp_path / "values.json")
