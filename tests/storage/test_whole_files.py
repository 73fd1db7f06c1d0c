"""Local files that appear when they are whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from rasteret_assets.storage.whole_files import whole_file


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "a.txt"
    with whole_file(target) as beside:
        beside.write_text("first")
        assert not target.exists()
    with whole_file(target) as beside:
        beside.write_text("sec")
        assert target.read_text() == "first"
        beside.write_text("second")
    assert target.read_text() == "second"
    assert [path.name for path in target.parent.iterdir()] == ["a.txt"]


def test_nothing_is_left_of_a_write_that_failed(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("first")
    with pytest.raises(TypeError), whole_file(target) as beside, beside.open("w") as file:
        file.writelines(["half", 2])  # type: ignore[list-item]
    assert target.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
