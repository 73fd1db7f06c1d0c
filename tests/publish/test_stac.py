"""STAC items are STAC-GeoParquet, whichever of Arrow's types their writer chose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasteret_assets import build_from_table
from tests.support.rasters import record_table

TEXT = {"text": pa.string(), "large": pa.large_string(), "view": pa.string_view()}
LISTS: dict[str, Callable[[pa.DataType], pa.DataType]] = {
    "list": pa.list_, "large list": pa.large_list, "view": pa.list_view,
    "of one length": lambda kind: pa.list_(kind, 1),
}  # fmt: skip


@pytest.mark.parametrize("text", TEXT.values(), ids=TEXT)
@pytest.mark.parametrize("listed", LISTS.values(), ids=LISTS)
def test_items_of_any_types_are_stac(
    tmp_path: Path, text: pa.DataType, listed: Callable[[pa.DataType], pa.DataType]
) -> None:
    link = pa.struct([("rel", text), ("href", text)])
    table = record_table(
        ["a", "b"], {"B02": ["/a.tif", "/b.tif"]}, type=pa.array(["Feature"] * 2, text),
        stac_version=pa.array(["1.0.0"] * 2, text), collection=pa.array(["s2", None], text),
        stac_extensions=pa.array([["https://example.com/eo.json"], None], listed(text)),
        links=pa.array([[{"rel": "self", "href": "https://example.com/a"}], None], listed(link)),
    )  # fmt: skip
    build_from_table(table, name="s2", workspace_dir=tmp_path)
    published = [pq.ParquetFile(file).read() for file in (tmp_path / "s2_records").rglob("*.parquet")]
    assert published
    for part in published:
        assert b"stac-geoparquet" in part.schema.metadata
        assert part["stac_extensions"].type == pa.list_(pa.string())
        assert part["stac_extensions"].null_count == 0
        assert all("collection" in {link["rel"] for link in links} for links in part["links"].to_pylist())
    assert sorted(name for part in published for name in part["collection"].to_pylist()) == ["s2", "s2"]
