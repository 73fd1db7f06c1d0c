"""Checks of normalized and rejected records: the contract that everything after them relies on."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rasteret_assets.checks.finding import Finding, some
from rasteret_assets.partitions import PartitionBy, hive_schema, partition_date
from rasteret_assets.schema import ASSETS, BBOX, GEOMETRY, ID, RECORD_FIELDS

#: How far a bbox may lie from its footprint, in degrees: the rounding of coordinates across the antimeridian.
_TOLERANCE: Final = 1e-9

OFF_EARTH, MISPLACED = "off the Earth", "outside their bbox"
_FOOTPRINT_PROBLEMS: Final = (OFF_EARTH, MISPLACED, "invalid", "missing")

_Mask: TypeAlias = npt.NDArray[np.bool_]


def schema_contract(schema: pa.Schema, dates: pa.Table, key: str, by: PartitionBy) -> Finding:
    """Check that every contract column is there with its type, and that every record is of the partition it lies in.

    Args:
        schema: of the normalized records.
        dates: their hive keys, such as ``year`` and ``month``, as far as they have them.
        key: of the partition.
        by: size of the collection's partitions.
    """
    hive = hive_schema(by)
    contract = {**RECORD_FIELDS, **{field.name: field.type for field in hive}}
    problems = [
        f"{name} is {schema.field(name).type}, not {kind}" if name in schema.names else f"there is no {name}"
        for name, kind in contract.items()
        if name not in schema.names or schema.field(name).type != kind
    ]
    if ASSETS not in schema.names or not pa.types.is_struct(schema.field(ASSETS).type):
        problems.append(f"{ASSETS} is no struct")
    for name, expected in zip(hive.names, partition_date(key) or repeat(None), strict=False):
        if name in dates.schema.names and not _all_are(dates[name], expected):
            problems.append(f"{name} is not {'null' if expected is None else expected} in every record")
    return Finding(
        check="schema_contract",
        passed=not problems,
        message=f"normalized records break the contract: {some(problems)}; materialize normalized_records again"
        if problems
        else f"{len(contract) + 1} contract columns have their types",
        numbers={"columns": len(schema), "problems": len(problems)},
    )


def unique_ids(ids: pa.ChunkedArray) -> Finding:
    """No record is without an id, and no two share one."""
    counted = ids.drop_null().value_counts()
    repeated = counted.field("values").filter(pc.greater(counted.field("counts"), 1)).to_pylist()
    found = [f"{ids.null_count} records have none"] if ids.null_count else []
    found += [f"{some(repeated)} stand for several records"] if repeated else []
    return Finding(
        check="unique_ids",
        passed=not found,
        message=f"ids do not tell records apart: {'; '.join(found)}; give the source unique ids"
        if found
        else "every record has an id of its own",
        numbers={"records": len(ids), "without_id": ids.null_count, "repeated_ids": len(repeated)},
    )


def footprints(batches: Iterable[pa.RecordBatch]) -> Finding:
    """Every footprint is a valid geometry on Earth, inside its bbox.

    Longitudes beyond 180 are on Earth where a footprint crosses the antimeridian. A null, empty or self-intersecting
    footprint is worth a look; one off the Earth, or outside its bbox, puts the record where it is not.

    Args:
        batches: columns ``id``, ``geometry`` and ``bbox`` of the normalized records.
    """
    total, counts, first = 0, dict.fromkeys(_FOOTPRINT_PROBLEMS, 0), dict.fromkeys(_FOOTPRINT_PROBLEMS, "")
    for batch in batches:
        total += batch.num_rows
        for problem, mask in _footprint_problems(batch).items():
            if mask.any():
                counts[problem] += int(mask.sum())
                first[problem] = first[problem] or str(batch.column(ID)[int(np.flatnonzero(mask)[0])])
    rows = [
        {"footprints": problem, "records": count, "first": first[problem]} for problem, count in counts.items() if count
    ]
    wrong = bool(counts[OFF_EARTH] or counts[MISPLACED])
    text = ", ".join(f"{row['records']} are {row['footprints']} (first {row['first']})" for row in rows)
    remedy = "state the CRS of the geometry in the source" if wrong else "mend them with shapely.make_valid"
    return Finding(
        check="footprints",
        passed=not rows,
        error=wrong,
        message=f"of {total} footprints {text}: {remedy}" if rows else f"{total} footprints are valid and on Earth",
        numbers={"footprints": total, "off_earth": counts[OFF_EARTH], "invalid": counts["invalid"]},
        rows=rows,
    )


def nothing_rejected(classes: pa.ChunkedArray) -> Finding:
    """No record had to be set aside; how many may be is ``max_rejected``, which stops the build before this check.

    Args:
        classes: ``reject_class`` of the rejected records.
    """
    counted = classes.combine_chunks().value_counts()
    by_class = sorted(zip(counted.field("values").to_pylist(), counted.field("counts").to_pylist(), strict=True))
    text = ", ".join(f"{count} {name}" for name, count in by_class)
    return Finding(
        check="nothing_rejected",
        passed=not by_class,
        error=False,
        message=f"{len(classes)} records were set aside ({text}): rejected_records has them with their reasons"
        if by_class
        else "every record met the contract",
        numbers={"rejected": len(classes)},
        rows=[{"reason": name, "records": count} for name, count in by_class],
    )


def _all_are(column: pa.ChunkedArray, expected: int | None) -> bool:
    if expected is None:
        return bool(column.null_count == len(column))
    return bool(pc.all(pc.fill_null(pc.equal(column, expected), fill_value=False)).as_py() in (True, None))


def _footprint_problems(batch: pa.RecordBatch) -> dict[str, _Mask]:
    """Rows by what is wrong with their footprint."""
    shapes = shapely.from_wkb(np.asarray(batch.column(GEOMETRY).to_numpy(zero_copy_only=False), object))
    missing = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    bounds = shapely.bounds(shapes)
    with np.errstate(invalid="ignore"):
        outside = (np.abs(bounds[:, [0, 2]]) > 360).any(axis=1) | (np.abs(bounds[:, [1, 3]]) > 90 + 1e-6).any(axis=1)
    off_earth = ~missing & (outside | ~np.isfinite(bounds).all(axis=1))
    return {
        OFF_EARTH: off_earth,
        MISPLACED: ~missing & ~off_earth & ~_within(bounds, batch.column(BBOX)),
        "invalid": ~missing & ~shapely.is_valid(shapes),
        "missing": missing,
    }


def _within(bounds: npt.NDArray[np.float64], bbox: pa.StructArray) -> _Mask:
    """Whether each bbox holds its footprint; one with ``xmin > xmax`` goes around the antimeridian."""
    xmin, ymin, xmax, ymax = (np.asarray(pc.struct_field(bbox, [i]).to_numpy(zero_copy_only=False)) for i in range(4))
    with np.errstate(invalid="ignore"):
        vertical = (ymin <= bounds[:, 1] + _TOLERANCE) & (ymax >= bounds[:, 3] - _TOLERANCE)
        horizontal = (xmin <= bounds[:, 0] + _TOLERANCE) & (xmax >= bounds[:, 2] - _TOLERANCE)
        wrapped = (xmin > xmax) | (np.abs(bounds[:, [0, 2]]) > 180).any(axis=1)
    return np.asarray(vertical & (horizontal | wrapped), bool)
