"""A thousand real Sentinel-2 items of the Planetary Computer, 21 assets each, through the library and the graph."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from rasteret_assets import CollectionSpec, build_from_table
from rasteret_assets.dagster import materialize_collection
from tests.corpus.conftest import CORPUS

TABLE = CORPUS / "tables" / "real_sentinel2_1000.parquet"
PROVIDER = "https://sentinel2l2a01.blob.core.windows.net/"

pytestmark = pytest.mark.skipif(not TABLE.exists(), reason="the shared corpus is not here")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_library_and_graph_publish_the_same_bytes(address: str, tmp_path: Path) -> None:
    arguments = {
        "name": "s2", "enrich_cog": True, "url_rewrite_patterns": {PROVIDER: address},
        # A tenth of the items: the server of this test is not made for sixteen thousand headers.
        "filter_expr": [["eo:cloud_cover", "<", 0.5]],
    }  # fmt: skip
    built = build_from_table(TABLE, workspace_dir=tmp_path / "library", **arguments)
    spec = CollectionSpec.of(path=str(TABLE), workspace_dir=tmp_path / "graph", **arguments)
    with dg.DagsterInstance.ephemeral() as instance:
        first = materialize_collection(spec, instance)
        second = materialize_collection(spec, instance)
    assert files(tmp_path / "library" / "s2_records") == files(tmp_path / "graph" / "s2_records")
    assert len(built) > 50
    assert sum(stages["band_metadata"]["headers_fetched"] for stages in first.values()) > 500
    # Only the files that do not exist are asked for again, as they may not be there yet.
    missing = sum(stages["band_metadata"]["headers_failed"] for stages in first.values())
    assert sum(stages["band_metadata"]["requests"] for stages in second.values()) == missing > 0
    others = {"product-metadata", "granule-metadata", "safe-manifest", "tilejson", "rendered_preview"}
    assert {child.name for child in pq.read_schema(TABLE).field("assets").type} > others
    assert not others & set(built.bands)
    assert {"B02", "SCL", "visual"} <= set(built.bands)
