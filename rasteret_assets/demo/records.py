"""The record table of the demo: one row per scene, as a STAC catalogue exports it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from rasteret_assets.demo.scenes import METADATA, THUMBNAIL, Scene
from rasteret_assets.demo.seasons import BANDS

COLLECTION: Final = "frisland"

_ASSET: Final = pa.struct(
    [("href", pa.string()), ("type", pa.string()), ("title", pa.string()), ("roles", pa.list_(pa.string()))]
)
_COG_TYPE: Final = "image/tiff; application=geotiff; profile=cloud-optimized"
_TITLES: Final = {"blue": "Blue", "green": "Green", "red": "Red", "nir": "Near infrared"}

_GEO: Final = {
    "version": "1.1.0",
    "primary_column": "geometry",
    "columns": {"geometry": {"encoding": "WKB", "geometry_types": ["Polygon"]}},
}

_SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("collection", pa.string()),
        ("platform", pa.string()),
        ("datetime", pa.timestamp("ms", tz="UTC")),
        ("eo:cloud_cover", pa.float64()),
        ("proj:epsg", pa.int32()),
        ("geometry", pa.binary()),
        ("assets", pa.struct([(name, _ASSET) for name in (*BANDS, "thumbnail", "metadata")])),
    ],
    {b"geo": json.dumps(_GEO).encode()},
)


def write_records(path: Path, scenes: Sequence[Scene], base_url: str) -> None:
    """Write one row per scene, with addresses below ``base_url``."""
    rows = [_row(scene, base_url) for scene in scenes]
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), path)


def move_records(path: Path, old_url: str, new_url: str) -> None:
    """Let the addresses of a record table begin with ``new_url`` in the place of ``old_url``."""
    rows = pq.read_table(path).to_pylist()
    for asset in (asset for row in rows for asset in row["assets"].values()):
        asset["href"] = new_url + asset["href"].removeprefix(old_url)
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), path)


def _row(scene: Scene, base_url: str) -> dict[str, Any]:
    def asset(file: str, media: str, title: str, role: str) -> dict[str, Any]:
        return {"href": f"{base_url}/{scene.id}/{file}", "type": media, "title": title, "roles": [role]}

    assets = {band: asset(f"{band}.tif", _COG_TYPE, _TITLES[band], "data") for band in BANDS}
    assets["thumbnail"] = asset(THUMBNAIL, "image/jpeg", "Thumbnail", "thumbnail")
    assets["metadata"] = asset(METADATA, "application/xml", "Acquisition", "metadata")
    return {
        "id": scene.id,
        "collection": COLLECTION,
        "platform": "frisat-1",
        "datetime": scene.time,
        "eo:cloud_cover": scene.cloud_cover,
        "proj:epsg": scene.placement.epsg,
        "geometry": shapely.Polygon(scene.footprint()).wkb,
        "assets": assets,
    }
