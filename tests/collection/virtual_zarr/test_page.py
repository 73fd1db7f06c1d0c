"""The examples of the page on Icechunk, run one after the other."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pyarrow as pa
import pytest

from rasteret_assets import build_from_table
from tests.collection.support import footprint_of, noise, write_raster

from .support import CODECS

pytestmark = [CODECS, pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")]

PAGE = Path(__file__).parents[3] / "docs" / "icechunk.md"


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    rows = []
    for number in range(2):
        assets = {
            band: {"href": str(write_raster(tmp_path / f"{number}_{band}.tif", noise(seed=seed), nodata=0))}
            for seed, band in enumerate(("B04", "B08"))
        }
        rows.append({
            "id": f"scene{number}", "datetime": dt.datetime(2024, 5, 3 + number, tzinfo=dt.UTC), "assets": assets,
            "geometry": footprint_of(tmp_path / f"{number}_B04.tif").wkb,
        })  # fmt: skip
    build_from_table(pa.Table.from_pylist(rows), name="scenes", workspace_dir=tmp_path, enrich_cog=True)
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 4
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile("\n" * text[: text.index(block)].count("\n") + block, str(PAGE), "exec"), namespace)
    assert capsys.readouterr().out.splitlines()[-1].startswith("0 2 () None")
