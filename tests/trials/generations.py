"""A record table that is replaced as a whole: every record of a generation is known from the generation's number."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from tests.support.rasters import record_table
from tests.trials.world import BANDS, version_of

RECORDS = 60
#: What :func:`problems` looks at.
COLUMNS = ["id", "month", "generation", *(f"{band}_metadata" for band in BANDS)]


def month_of(number: int, generation: int) -> int:
    """Return the month of a record; every fifth moves with every generation."""
    return 1 + (number + (generation if number % 5 == 0 else 0)) % 3


def version(number: int, generation: int) -> int:
    """Return which files a record has; every seventh gets others with every third generation."""
    return number * 20 + (generation // 3 % 20 if number % 7 == 0 else 0)


def scenes(generation: int, url: str) -> pa.Table:
    """Return the record table of a generation; its rows are longer in some generations than in others."""
    numbers = range(RECORDS)
    hrefs = {band: [f"{url}/{version(number, generation)}-{band}.tif" for number in numbers] for band in BANDS}
    times = [datetime(2024, month_of(number, generation), 5, tzinfo=UTC) for number in numbers]
    noise = [f"{generation}" * (50 * (generation % 5) + 1)] * RECORDS
    table = record_table([f"r{number:03}" for number in numbers], hrefs, datetimes=times)
    return table.append_column("generation", pa.array([generation] * RECORDS)).append_column("noise", pa.array(noise))


def problems(rows: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with rows of a collection: every month is to be one generation's, whole and right."""
    months: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        months[row["month"]].append(row)
    found = []
    for month, inside in months.items():
        generations = {row["generation"] for row in inside}
        if len(generations) > 1:
            found.append(f"month {month} mixes generations {sorted(generations)}")
            continue
        (generation,) = generations
        right = [
            (f"r{number:03}", *[version(number, generation)] * len(BANDS))
            for number in range(RECORDS)
            if month_of(number, generation) == month
        ]
        versions = [[version_of(row[f"{band}_metadata"], place) for place, band in enumerate(BANDS)] for row in inside]
        if sorted((row["id"], *two) for row, two in zip(inside, versions, strict=True)) != right:
            found.append(f"month {month} does not hold the records of generation {generation}")
    return found
