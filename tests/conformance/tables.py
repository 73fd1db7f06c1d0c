"""Record tables that bring out what a published format may get wrong; the corpus has real ones beside them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from tests.support.rasters import footprint, record_table, tiff_bytes
from tests.support.server import RangeServer


def generated_tables(server: RangeServer) -> dict[str, tuple[pa.Table, dict[str, Any]]]:
    """Tables by name, each with the arguments it is built with."""
    image = tiff_bytes()
    server.objects["/a.tif"] = image
    server.objects["/jpeg.tif"] = tiff_bytes(dtype="uint8", bands=3, compress="jpeg", photometric="ycbcr")
    hrefs = {"B02": [f"{server.url}/a.tif?sig=secret", f"{server.url}/a.tif", None, f"{server.url}/gone.tif"],
             "visual": [f"{server.url}/jpeg.tif"] * 4}  # fmt: skip
    plain = record_table(list("dacb"), hrefs, outline=footprint(image), nothing=pa.nulls(4))
    # Of four records with one band: three, two and no overviews, and no file.
    levels = {
        "/three.tif": {"overview_count": 3},
        "/two.tif": {"overview_count": 2},
        "/none.tif": {"overviews": "NONE"},
    }
    for path, options in levels.items():
        server.objects[path] = tiff_bytes(width=600, height=400, driver="COG", blocksize=64, **options)
    addresses = [*(server.url + path for path in levels), None]
    pyramids = record_table(list("efgh"), {"B02": addresses}, outline=footprint(server.objects["/three.tif"]))
    return {
        "plain": (plain, {}),
        "headers": (plain, {"enrich_cog": True}),
        "stac": (_items(plain), {"enrich_cog": True}),
        "overviews": (_items(pyramids), {"enrich_cog": True}),
        "sparse_stac": (_items(plain).drop_columns(["links", "collection", "type"]), {}),
        "undated": (_with_times(plain, [None] * 4), {}),
        "half_undated": (_with_times(plain, [None, datetime(2024, 5, 1, tzinfo=UTC), None, None]), {}),
        "shapes": (_shapes(), {}),
        "many": (many_boxes(4500), {}),
        "no_rows": (plain.slice(0, 0), {}),
    }  # fmt: skip


def _items(records: pa.Table) -> pa.Table:
    link = pa.struct([(name, pa.string()) for name in ("href", "rel", "type", "title")])
    own = {"href": "https://example.com/item.json?token=secret", "rel": "self"}
    theirs = {"href": "https://example.com/collection.json", "rel": "collection", "type": "application/json"}
    columns = {
        "type": pa.array(["Feature"] * 4),
        "stac_version": pa.array(["1.0.0", "1.0.0", "1.1.0", None]),
        "stac_extensions": pa.array([[], None, [], []], pa.list_(pa.string())),
        "links": pa.array([[own, theirs], [own], [], None], pa.list_(link)),
        "collection": pa.array(["sentinel-2", "sentinel-2", None, "sentinel-2"]),
        "eo:cloud_cover": pa.array([1.5, None, 3.0, 4.0]),
    }
    for name, column in columns.items():
        records = records.append_column(name, column)
    return records


def _with_times(records: pa.Table, times: list[datetime | None]) -> pa.Table:
    column = pa.array(times, pa.timestamp("us", "UTC"))
    return records.set_column(records.schema.get_field_index("datetime"), "datetime", column)


def _shapes() -> pa.Table:
    texts = [
        "POINT (1 2)", "POLYGON Z ((0 0 1, 1 0 1, 1 1 1, 0 0 1))", "MULTIPOINT (0 0, 1 1)", "POINT M (1 2 3)",
        "LINESTRING (170 0, 190 10)", "POLYGON ((175 -5, 185 -5, 185 5, 175 5, 175 -5))", "POLYGON EMPTY",
        "GEOMETRYCOLLECTION (POINT (3 4))", "POLYGON ((-200 1, -160 1, -160 5, -200 5, -200 1))",
    ]  # fmt: skip
    wkb = [*shapely.to_wkb(shapely.from_wkt(texts)), None]
    made = record_table([f"r{number}" for number in range(len(wkb))], {"B02": [None] * len(wkb)})
    return made.set_column(made.schema.get_field_index("geometry"), "geometry", pa.array(wkb, pa.binary()))


def many_boxes(rows: int) -> pa.Table:
    """Records of one month, all over the map."""
    rng = np.random.default_rng(5)
    x, y = rng.uniform(-179, 178, rows), rng.uniform(-89, 88, rows)
    wkb = shapely.to_wkb(shapely.box(x, y, x + 1, y + 1))
    times = [datetime(2024, 5, 1, tzinfo=UTC)] * rows
    made = record_table([f"{number:05}" for number in range(rows)], {"B02": [None] * rows}, datetimes=times)
    return made.set_column(made.schema.get_field_index("geometry"), "geometry", pa.array(wkb, pa.binary()))
