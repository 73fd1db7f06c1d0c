"""The shared corpus beside the repository: real and hand-made files with reference answers. Skipped where absent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import RangeServer

CORPUS = Path(__file__).parents[2] / ".." / "shared" / "corpus"


def load_oracle() -> list[dict[str, Any]]:
    """What rasterio and tifffile say of each file; empty without the corpus."""
    path = CORPUS / "oracle.json"
    return json.loads(path.read_text(encoding="utf-8"))["files"] if path.exists() else []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Hand each test that asks for ``indexable`` or ``refusable`` the answers about the files of that kind."""
    for fixture, expect in (("indexable", "ok"), ("refusable", "refuse")):
        if fixture in metafunc.fixturenames:
            answers = [answer for answer in load_oracle() if answer["expect"] == expect]
            metafunc.parametrize(fixture, answers, ids=[Path(answer["file"]).stem for answer in answers])


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of the corpus."""
    if not CORPUS.exists():
        pytest.skip("the shared corpus is not here")
    return CORPUS


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the corpus' files are served, under the many names its map gives them."""
    server = RangeServer(CORPUS)
    rules = [(re.compile(rule), target) for rule, target in json.loads((CORPUS / "map.json").read_text()).items()]
    by_name = {path.name: path for path in (CORPUS / "cogs").iterdir()}
    plain = server.body

    def body(path: str) -> bytes | None:
        found = plain(path)
        address = path.partition("?")[0]
        if found is None and (file := by_name.get(address.rpartition("/")[2])):
            return file.read_bytes()
        targets = (target for rule, target in rules if rule.search(address))
        return found if found is not None or (target := next(targets, None)) is None else plain("/" + target)

    server.body = body  # type: ignore[method-assign]
    with server.running():
        yield server.url + "/"
