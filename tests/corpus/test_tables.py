"""Every record table of the shared corpus, built in memory and published, against its expected outcome.

``status`` says what must come out: ``ok`` exactly the values given, ``refuse`` a clear error of ours, ``either`` one
of the two. The tables' hrefs lead to a fixed port; they are rewritten to the server this test starts.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rasteret_assets import build_from_table, load
from rasteret_assets.errors import RasteretAssetsError
from tests.corpus.conftest import CORPUS, load_oracle

ADDRESS = "http://127.0.0.1:8791/"

TABLES: dict[str, Any] = {}
ARGUMENTS: dict[str, Any] = {}
if CORPUS.exists():
    TABLES = json.loads((CORPUS / "tables" / "expected.json").read_text())["tables"]
    ARGUMENTS = json.loads((CORPUS / "tables" / "args.json").read_text())

#: Exact repetitions of a record are collapsed, which the corpus' notes allow and its table of values does not show.
COLLAPSED = {"id_duplicates_exact.parquet": 6}


def arguments(name: str, address: str) -> dict[str, Any]:
    expected = TABLES[name]
    given = dict(ARGUMENTS.get(name, {}))
    rewrites = {**given.pop("url_rewrite_patterns", {})}
    rewrites = {old: new.replace(ADDRESS, address) for old, new in rewrites.items()}
    given["url_rewrite_patterns"] = {ADDRESS: address, ADDRESS.replace("http", "HTTP"): address, **rewrites}
    if "enrich" in expected:
        given["enrich_cog"] = True
        if name != "assets_all_bands_default.parquet":
            given["band_codes"] = list(expected["enrich"])
    return given


@pytest.mark.parametrize("published", [False, True], ids=["in memory", "published"])
@pytest.mark.parametrize("name", [name for name in TABLES if name != "big_20000.parquet"])
def test_the_table_comes_out_as_expected(name: str, published: bool, address: str, tmp_path: Path) -> None:
    expected = TABLES[name]
    given = arguments(name, address)
    if published:
        given |= {"name": "corpus", "workspace_dir": tmp_path}
    refusal = None
    try:
        built = build_from_table(CORPUS / "tables" / name, **given)
    except RasteretAssetsError as error:
        refusal = str(error)
    if refusal is not None:
        assert expected["status"] in {"refuse", "either"}, refusal
        assert len(refusal) > 30
        return
    assert expected["status"] in {"ok", "either"}
    table = (load(tmp_path / "corpus_records") if published else built).to_table()
    if name in COLLAPSED:
        assert table.num_rows == COLLAPSED[name]
        return
    if "rows" in expected:
        assert table.num_rows == expected["rows"]
    if "datetime_null" in expected:
        assert table["datetime"].null_count == expected["datetime_null"]
    if "id" in expected:
        by_position = not published and not expected.get("order_free")
        ids = table["id"].to_pylist()
        rows = list(range(len(ids))) if by_position else [ids.index(record) for record in expected["id"]]
        check_rows(table.take(pa.array(rows, pa.int64())), expected)


def check_rows(table: pa.Table, expected: dict[str, Any]) -> None:
    assert table["id"].to_pylist() == expected["id"]
    if "datetime" in expected:
        times = [value and value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for value in table["datetime"].to_pylist()]
        assert times == expected["datetime"]
    for key in {"year", "month"} & set(expected):
        assert table[key].to_pylist() == expected[key]
    epsg = expected.get("epsg_after_enrich", expected.get("epsg"))
    if epsg is not None:
        assert set(table["proj:epsg"].to_pylist()) == {epsg}
    for box, wanted in zip(table["bbox"].to_pylist(), expected.get("bbox", []), strict=False):
        if wanted != "unchecked":
            assert (box is None) == (wanted is None)
            assert box is None or np.allclose(list(box.values()), wanted, rtol=0, atol=1e-6)
    for band, cells in expected.get("enrich", {}).items():
        column = f"{band}_metadata"
        if column not in table.schema.names:
            assert not any(cells)
            continue
        for header, cell in zip(table[column].to_pylist(), cells, strict=True):
            check_header(header, cell)


ORACLE = {answer["file"]: answer for answer in load_oracle()}


def check_header(header: dict[str, Any] | None, cell: dict[str, Any] | None) -> None:
    if cell is None or cell.get("expect") == "refuse":
        assert header is None
        return
    assert header is not None
    answer = ORACLE[cell["file"]]
    index = cell.get("band_index") or 0
    assert header["band_index"] == index
    assert (header["image_width"], header["image_height"]) == (answer["width"], answer["height"])
    a, _, c, _, e, f = answer["affine"]
    assert np.allclose(header["transform"], [a, c, e, f], rtol=1e-12)
    tables = answer["planes"][index] if answer["planar_config"] == 2 and answer["count"] > 1 else answer
    for field, key in (("tile_offsets", "tile_offsets"), ("tile_byte_counts", "tile_byte_counts")):
        digest = hashlib.sha256(np.asarray(header[field], "<i8").tobytes()).hexdigest()
        found = tables[key] if key in tables else tables[f"{key}_sha256"]
        assert digest == (found["sha256"] if isinstance(found, dict) else found)
