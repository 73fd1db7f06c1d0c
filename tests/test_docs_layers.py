"""CONTRIBUTING and ARCHITECTURE say of the package's layers and modules what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_layers import LAYERS, PACKAGE, ROOMS

ROOT = Path(__file__).parent.parent


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_table_of_layers_is_that_of_the_tests() -> None:
    rows = page("CONTRIBUTING.md").partition("| | holds |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    assert [set(re.findall(r"`(\w+)/?`", row.split("|")[1])) for row in rows] == LAYERS


def test_folders_are_named_as_folders() -> None:
    names = re.findall(
        r"^\| (.*?) \|", page("CONTRIBUTING.md").partition("| | holds |")[2].partition("\n\n")[0], re.MULTILINE
    )
    for name in re.findall(r"`(\w+/?)`", " ".join(names)):
        assert (PACKAGE / name).is_dir() if name.endswith("/") else (PACKAGE / f"{name}.py").is_file(), name


def test_the_page_on_architecture_has_the_layers_in_order() -> None:
    text = page("ARCHITECTURE.md")
    block = text.partition("```text\n")[2].partition("```")[0]
    ranks = [
        rank
        for word in re.findall(r"\w+", block.partition("\n")[2])
        for rank, names in enumerate(LAYERS)
        if word in names
    ]
    assert ranks == sorted(ranks)
    assert set(ranks) == set(range(1, len(LAYERS)))
    (rooms,) = re.findall(r"Inside `collection/`: (.*?)\.\n", text, flags=re.DOTALL)
    assert [set(re.findall(r"`(\w+)/?`", group)) for group in rooms.split(">")] == ROOMS


@pytest.mark.parametrize("name", ["ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_and_folders_that_are_named_exist(name: str) -> None:
    named = re.findall(r"`([\w./]+(?:/|\.py))`", page(name))
    # Rooms of these folders are named without them.
    roots = (ROOT, PACKAGE, *(PACKAGE / folder for folder in ("collection", "orchestration", "pipeline", "storage")))
    assert len(named) > 10
    assert not [path for path in named if not any((root / path).exists() for root in roots)]
