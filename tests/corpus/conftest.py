"""The shared corpus beside the repository: real and hand-made files with reference answers. Skipped where absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
