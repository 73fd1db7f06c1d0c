"""Row groups that cannot hold a record near an area are left out, and no others."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from rasteret_assets.collection import load
from rasteret_assets.collection.table._prune import groups_near
from rasteret_assets.schema import BBOX_TYPE

from .support import record, records_table

LON, LAT = st.floats(-180, 180), st.floats(-90, 90)
#: xmin > xmax says that a box crosses the antimeridian.
BOXES = st.tuples(LON, LAT, LON, LAT).map(lambda box: (box[0], min(box[1], box[3]), box[2], max(box[1], box[3])))
AREAS = BOXES.map(lambda box: (min(box[0], box[2]), box[1], max(box[0], box[2]), box[3]))


def file_of(boxes: list[tuple[float, ...] | None], rows: int, *, statistics: bool = True) -> pq.ParquetFile:
    structs = [box and dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)) for box in boxes]
    sink = io.BytesIO()
    table = pa.table({"bbox": pa.array(structs, BBOX_TYPE), "id": [str(number) for number in range(len(boxes))]})
    pq.write_table(table, sink, row_group_size=rows, write_statistics=statistics)
    return pq.ParquetFile(sink)


def overlap(box: tuple[float, ...] | None, area: tuple[float, ...]) -> bool:
    if box is None:
        return False
    parts = [box] if box[0] <= box[2] else [(box[0], box[1], 180, box[3]), (-180, box[1], box[2], box[3])]
    return any(
        part[0] <= area[2] and part[2] >= area[0] and part[1] <= area[3] and part[3] >= area[1] for part in parts
    )


@settings(max_examples=300)
@given(
    st.lists(st.none() | BOXES, min_size=1, max_size=20), st.lists(st.lists(AREAS, min_size=1, max_size=3), max_size=2),
    st.integers(1, 5), st.booleans(),
)  # fmt: skip
def test_groups_are_those_of_which_a_row_meets_every_group_of_areas(
    boxes: list, areas: list[list], rows: int, statistics: bool
) -> None:
    near = groups_near(file_of(boxes, rows, statistics=statistics), [np.array(group, float) for group in areas])
    expected = [
        first // rows
        for first in range(0, len(boxes), rows)
        if any(all(any(overlap(box, area) for area in group) for group in areas) for box in boxes[first : first + rows])
    ]
    assert near == expected


def test_only_row_groups_with_a_hit_are_decoded(tmp_path: Path) -> None:
    # Along a meridian, a box a degree, so that a box of two degrees meets rows of one group, or of two neighbours.
    rows = [record(f"{n:03}", footprint=shapely.box(9, n - 60, 9.5, n - 59.5)) for n in range(120)]
    table = records_table(rows)
    pq.write_table(table, tmp_path / "part-0.parquet", row_group_size=10)
    damaged = bytearray((tmp_path / "part-0.parquet").read_bytes())
    metadata = pq.read_metadata(tmp_path / "part-0.parquet")
    (ids,) = [leaf for leaf in range(metadata.num_columns) if metadata.schema.column(leaf).path == "id"]
    hit = 3
    for group in set(range(metadata.num_row_groups)) - {hit}:
        # Overwritten, because these bytes need not be read.
        chunk = metadata.row_group(group).column(ids)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        damaged[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    (tmp_path / "part-0.parquet").write_bytes(damaged)
    found = load(tmp_path).subset(bbox=(9, 30 + 2 - 60, 9.2, 30 + 4 - 60)).to_table(["id"])
    assert found["id"].to_pylist() == ["032", "033", "034"]
