"""``rasteret-assets validate``: every mistake with its file, line and field."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from rasteret_assets.cli import main
from rasteret_assets.declare import read_specs
from rasteret_assets.errors import DeclarationError, SpecError

FILES = {
    "a.yaml": "path: x.parquet\nenrich: true\ngraph:\n  timezone: Mars\n  owners: [nobody]\n",
    "b.yaml": "path: x.parquet\nname: good\n",
    "c.yaml": "# one name again\nname: good\npath: y.parquet\n",
    "d.yaml": "path: [\n",
    "e.yaml": "path: x\npath: y\nname: e\nname: f\n",
    "f.yaml": "name: f\n",
    "g.yaml": "path: x\nhref_column: url\n",
}
MISTAKES = [
    ("a.yaml", 2, "enrich"),
    ("a.yaml", 4, "graph.timezone"),
    ("a.yaml", 5, "graph.owners"),
    ("c.yaml", 2, "name"),
    ("d.yaml", 2, ""),
    ("e.yaml", 2, "path"),
    ("e.yaml", 4, "name"),
    ("f.yaml", 1, "path"),
    ("g.yaml", 2, ""),
]


def validate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["validate", *map(str, arguments)])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("RASTERET_ASSETS_COLLECTIONS", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "collections"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def test_every_mistake_of_every_file_is_reported(folder: Path) -> None:
    result = validate("--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert len(found["files"]) == len(FILES)
    told = sorted((Path(row["file"]).name, row["line"], row["field"]) for row in found["mistakes"])
    assert told == sorted(MISTAKES)
    lines = validate().stdout.splitlines()
    assert "collections/a.yaml:2: unknown argument 'enrich': did you mean 'enrich_cog'?" in lines
    assert lines[-1] == "7 files, 9 mistakes"
    assert validate("collections/b.yaml").stdout == "1 file is right\n"


def test_mistakes_of_a_file_are_listed_by_line(folder: Path) -> None:
    (folder / "a.yaml").write_text("path: a.parquet\nzzz: 1\nmax_concurrent: none\naaa: 1\nenrich_cog: often\n")
    found = json.loads(validate("collections/a.yaml", "--json").stdout)["mistakes"]
    assert [row["line"] for row in found] == [2, 3, 4, 5]


def test_files_are_validated_by_themselves(folder: Path) -> None:
    assert validate("collections/b.yaml", "--json").exit_code == 0
    assert validate("collections/b.yaml", "collections/g.yaml").exit_code == 1
    assert validate("collections/z.yaml").exit_code == 2
    assert validate("--collections", folder / "none").exit_code == 2
    for name in FILES:
        (folder / name).unlink()
    assert validate().exit_code == 2  # a folder without any is another than was meant


def test_mistakes_are_an_error_with_all_of_them(folder: Path) -> None:
    with pytest.raises(DeclarationError) as caught:
        read_specs(folder)
    assert isinstance(caught.value, SpecError)
    assert len(caught.value.mistakes) == len(MISTAKES)
    assert str(caught.value).count("\n") == len(MISTAKES) - 1
