"""Record tables to publish: five years of a satellite mission as a STAC table, of any size, in bounded memory.

A record looks like an item of a Sentinel-2 archive: tiles of 110 km that are visited again and again, four COGs, the
properties people filter by, links, extensions. The rows of one table are in the order of their datetimes, one file per
month, as archives are handed out; ``shuffled`` puts them into one file in no order at all. With ``one_file`` a record
is what a team with a table of its own keeps: id, datetime, footprint, CRS, cloud cover and the address of one file,
whose samples are the bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely

FIRST_YEAR: Final = 2019
YEARS: Final = 5
MONTHS: Final = 12 * YEARS
BANDS: Final = ("B02", "B03", "B04", "B08")
#: Tiles lie on land-like latitudes; the benchmark's query asks for a place that all tables cover.
TILES: Final = 12_000
ROWS_AT_ONCE: Final = 50_000
#: Columns of a table of records with one file each; ``url`` is the address of it.
ONE_FILE: Final = ("id", "geometry", "datetime", "eo:cloud_cover", "proj:epsg")
URL: Final = "url"
HOST: Final = "https://example.com/sentinel-cogs/sentinel-s2-l2a-cogs"


@dataclass(frozen=True, kw_only=True)
class RecordTable:
    """What is to be published.

    Args:
        records: how many, over :data:`MONTHS` months.
        shuffled: one file in random order instead of one per month.
        one_file: records with one file of four samples instead of STAC items with four files.
        changed: share of records, the newest ones, whose cloud cover and ``updated`` differ from the first version.
    """

    records: int
    shuffled: bool = False
    one_file: bool = False
    changed: float = 0.0

    def write(self, cache: Path) -> Path:
        """Write the table as a folder of Parquet files below ``cache``, once."""
        kind = "-one-file" if self.one_file else ""
        path = cache / f"records-{self.records}-{'shuffled' if self.shuffled else 'by-month'}{kind}"
        if not path.exists():
            making = path.with_suffix(".making")
            making.mkdir(parents=True, exist_ok=True)
            for number in range(self.files):
                self._write_file(making, number)
            making.rename(path)
        return path

    def change(self, folder: Path) -> None:
        """Rewrite the files of a folder that hold records which :attr:`changed` concerns."""
        first = 0 if self.shuffled else int(self.files * (1 - self.changed))
        for number in range(first, self.files):
            self._write_file(folder, number)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        return pa.schema([*(SCHEMA.field(name) for name in ONE_FILE), (URL, pa.string())]) if self.one_file else SCHEMA

    @property
    def files(self) -> int:
        """Files of the table."""
        return 1 if self.shuffled else MONTHS

    def rows(self, numbers: np.ndarray) -> pa.Table:
        """Return the records of some numbers; those of month m are the m-th part of all."""
        return self._rows(numbers, _tiles())

    def _write_file(self, folder: Path, file: int) -> None:
        tiles = _tiles()
        # A file of its own that takes the name: what is rewritten may be a link to another folder's.
        path, beside = folder / f"part-{file:03}.parquet", folder / "beside"
        with pq.ParquetWriter(beside, self.schema, compression="zstd") as writer:
            end = -(-(file + 1) * self.records // self.files)
            for first in range(-(-file * self.records // self.files), end, ROWS_AT_ONCE):
                numbers = np.arange(first, min(first + ROWS_AT_ONCE, end))
                rows = self._rows(_permuted(numbers, self.records) if self.shuffled else numbers, tiles)
                writer.write_table(rows, row_group_size=ROWS_AT_ONCE)
        beside.rename(path)

    def _rows(self, numbers: np.ndarray, tiles: tuple[pa.Array, np.ndarray]) -> pa.Table:
        """Return records by number, on which alone their content depends."""
        names, boxes = tiles
        tile = (numbers * 7919) % TILES
        box = boxes[tile] + (_uniform(numbers, 1)[:, np.newaxis] - 0.5) / 10
        changed = numbers >= self.records * (1 - self.changed)
        times = _times(numbers, self.records)
        ids = _joined("S2", pc.take(names, tile), pc.strftime(times, "%Y%m%d"), numbers.astype(str), "L2A", by="_")
        folder = _joined(HOST, pc.take(names, tile), pc.strftime(times, "%Y/%m"), ids, by="/")
        stated = pa.scalar("2024-01-15T00:00:00Z")
        clouds = np.round(100 * _uniform(numbers, 2), 6)
        columns: dict[str, pa.Array] = {
            "type": _constant("Feature", numbers),
            "stac_version": _constant("1.0.0", numbers),
            "stac_extensions": _lists(
                ["https://stac-extensions.github.io/eo/v1.1.0/schema.json",
                 "https://stac-extensions.github.io/projection/v1.1.0/schema.json"], numbers),
            "id": ids,
            "geometry": pa.array(shapely.to_wkb(shapely.box(*box.T)), pa.binary()),
            "bbox": pa.StructArray.from_arrays(list(box.T), names=["xmin", "ymin", "xmax", "ymax"]),
            "links": _links(ids, folder),
            "assets": pa.StructArray.from_arrays([_asset(folder, band) for band in BANDS], names=list(BANDS)),
            "collection": _constant("sentinel-2-l2a", numbers),
            "datetime": times,
            "created": _joined(pc.strftime(times, "%Y-%m-%dT%H:%M:%SZ"), by=""),
            "updated": pc.if_else(changed, stated, pc.strftime(times, "%Y-%m-%dT%H:%M:%SZ")),
            "platform": pc.if_else(numbers % 2 == 0, "sentinel-2a", "sentinel-2b"),
            "constellation": _constant("sentinel-2", numbers),
            "eo:cloud_cover": pa.array(np.where(changed, np.round(clouds / 2, 6), clouds)),
            "proj:epsg": pa.array((32600 + (np.floor((box[:, 0] + 180) / 6) + 1)).astype(np.int32)),
            "view:sun_azimuth": pa.array(360 * _uniform(numbers, 3)),
            "view:sun_elevation": pa.array(10 + 70 * _uniform(numbers, 4)),
            "s2:processing_baseline": _constant("05.09", numbers),
            "s2:nodata_pixel_percentage": pa.array(np.round(60 * _uniform(numbers, 5), 4)),
        }  # fmt: skip
        if self.one_file:
            columns = {name: columns[name] for name in ONE_FILE} | {URL: _joined(folder, "all.tif", by="/")}
        return pa.table(columns, self.schema)


SCHEMA: Final = pa.schema(
    [
        ("type", pa.string()),
        ("stac_version", pa.string()),
        ("stac_extensions", pa.list_(pa.string())),
        ("id", pa.string()),
        ("geometry", pa.binary()),
        ("bbox", pa.struct([(name, pa.float64()) for name in ("xmin", "ymin", "xmax", "ymax")])),
        ("links", pa.list_(pa.struct([(name, pa.string()) for name in ("href", "rel", "type")]))),
        (
            "assets",
            pa.struct([(band, pa.struct([(name, pa.string()) for name in ("href", "type", "title")]
                                        + [("roles", pa.list_(pa.string()))])) for band in BANDS]),
        ),
        ("collection", pa.string()),
        ("datetime", pa.timestamp("us", tz="UTC")),
        ("created", pa.string()),
        ("updated", pa.string()),
        ("platform", pa.string()),
        ("constellation", pa.string()),
        ("eo:cloud_cover", pa.float64()),
        ("proj:epsg", pa.int32()),
        ("view:sun_azimuth", pa.float64()),
        ("view:sun_elevation", pa.float64()),
        ("s2:processing_baseline", pa.string()),
        ("s2:nodata_pixel_percentage", pa.float64()),
    ]
)  # fmt: skip


def _tiles() -> tuple[pa.Array, np.ndarray]:
    """Return names and boxes ``[TILES, 4]`` of about a degree each, scattered between 56 degrees south and 74 north."""
    rng = np.random.default_rng(0)
    corner = np.column_stack([rng.uniform(-179, 178, TILES), rng.uniform(-56, 74, TILES)])
    names = pa.array([f"{number % 60 + 1:02}{'CDEFGHJKLM'[number % 10]}{number // 60:03}" for number in range(TILES)])
    return names, np.column_stack([corner, corner + rng.uniform(0.9, 1.0, (TILES, 1))])


def _times(numbers: np.ndarray, records: int) -> pa.Array:
    """Return instants ``[N]``: record i lies at the i-th part of its month."""
    start = np.array(datetime(FIRST_YEAR, 1, 1, tzinfo=UTC).replace(tzinfo=None), "datetime64[M]")
    place = numbers * MONTHS / records
    month = np.minimum(place.astype(np.int64), MONTHS - 1)
    first = (start + month).astype("datetime64[us]")
    length = (start + month + 1).astype("datetime64[us]") - first
    return pa.array(first + (length * np.clip(place - month, 0, 0.999_999)).astype("timedelta64[us]")).cast(
        pa.timestamp("us")
    ).cast(pa.timestamp("us", tz="UTC"))  # fmt: skip


def _permuted(numbers: np.ndarray, records: int) -> np.ndarray:
    """Return places in another order of ``range(records)``: steps of a prime that does not divide ``records``."""
    step = next(prime for prime in (2_147_483_647, 1_000_003) if records % prime)
    return numbers * step % records


def _uniform(numbers: np.ndarray, salt: int) -> np.ndarray:
    """Return numbers in 0..1 that look random and depend on the record's number alone (the mixer of SplitMix64)."""
    mixed = (numbers.astype(np.uint64) + np.uint64(salt * 0x9E3779B9)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) / 2.0**53


def _asset(folder: pa.Array, band: str) -> pa.Array:
    rows = np.arange(len(folder))
    media = "image/tiff; application=geotiff; profile=cloud-optimized"
    return pa.StructArray.from_arrays(
        [_joined(folder, f"{band}.tif", by="/"), _constant(media, rows), _constant(f"Band {band}", rows),
         _lists(["data", "reflectance"], rows)],
        names=["href", "type", "title", "roles"],
    )  # fmt: skip


def _links(ids: pa.Array, folder: pa.Array) -> pa.Array:
    own = _joined(folder, _joined(ids, "json", by="."), by="/")
    parent = _constant(f"{HOST}/collection.json", np.arange(len(ids)))
    order = np.arange(2 * len(ids)).reshape(2, -1).T.ravel()
    fields = [
        pa.concat_arrays([own, parent]).take(order),
        pa.array(["self", "collection"] * len(ids)),
        pa.array(["application/geo+json", "application/json"] * len(ids)),
    ]
    values = pa.StructArray.from_arrays(fields, names=["href", "rel", "type"])
    return pa.ListArray.from_arrays(np.arange(0, 2 * len(ids) + 1, 2, dtype=np.int32), values)


def _constant(value: str, rows: np.ndarray) -> pa.Array:
    return pa.array([value]).take(np.zeros(len(rows), np.int64))


def _lists(values: list[str], rows: np.ndarray) -> pa.Array:
    offsets = np.arange(0, len(values) * len(rows) + 1, len(values), dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values).take(np.tile(np.arange(len(values)), len(rows))))


def _joined(*parts: pa.Array | np.ndarray | str, by: str) -> pa.Array:
    texts = [part if isinstance(part, str) else pa.array(part, pa.string()) for part in parts]
    return pc.binary_join_element_wise(*texts, by)
