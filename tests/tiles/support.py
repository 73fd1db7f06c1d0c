"""Write cloud-optimized files of many kinds, and note which bytes GDAL reads of a file when rio-tiler opens it."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from rasterio.abc import MultiByteRangeResourceContainer
from rasterio.warp import transform_bounds
from rio_tiler.io import Reader

from rasteret_assets import build_from_table
from rasteret_assets.collection.collection import Collection

UTM = Affine(10, 0, 500_000, 0, -10, 5_000_000)
DEGREES = Affine(1 / 9000, 0, 9.0, 0, -1 / 9000, 45.15)
MERCATOR = Affine(14, 0, 1_001_000, 0, -14, 5_640_000)
PLACES = {"EPSG:32632": UTM, "EPSG:4326": DEGREES, "EPSG:3857": MERCATOR}


def pixels(dtype: str = "uint16", *, bands: int = 1, rows: int = 700, columns: int = 900, seed: int = 0) -> np.ndarray:
    """Return smooth hills with noise, from 1 to 200, so that resampling and lossy codecs change them visibly."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns]
    hills = [90 + 60 * np.sin(x / (31 + band)) * np.cos(y / (43 - band)) for band in range(bands)]
    return np.clip(np.stack(hills) + rng.normal(0, 12, (bands, rows, columns)), 1, 200).astype(dtype)


def write_cog(
    path: Path,
    data: np.ndarray,
    *,
    crs: str = "EPSG:32632",
    transform: Affine | None = None,
    mask: np.ndarray | None = None,
    overviews: tuple[int, ...] = (2, 4, 8),
    describe: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write ``data`` of shape (bands, rows, columns) with all directories before the pixels, by GDAL's GTiff driver.

    Args:
        mask: where an internal mask hides pixels.
        describe: ``nodata``, ``scales``, ``offsets``, ``colormap`` and ``colorinterp`` of the dataset.
        **options: creation options.
    """
    described = describe or {}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.MemoryFile() as memory:
        profile = {
            "driver": "GTiff", "count": data.shape[0], "height": data.shape[1], "width": data.shape[2],
            "dtype": data.dtype.name, "crs": crs, "transform": transform or PLACES[crs], "tiled": True,
            "blockxsize": 64, "blockysize": 64, "nodata": described.get("nodata"),
        }  # fmt: skip
        kinds = {name: options[name] for name in ("photometric", "alpha") if name in options}
        with memory.open(**profile, **({} if kinds.get("photometric") == "YCBCR" else kinds)) as dataset:
            dataset.write(data)
            for name in ("scales", "offsets"):
                if name in described:
                    setattr(dataset, name, described[name])
            if "colormap" in described:
                dataset.write_colormap(1, described["colormap"])
            if mask is not None:
                dataset.write_mask(np.where(mask, 0, 255).astype("uint8"))
            if overviews:
                dataset.build_overviews(list(overviews), rasterio.enums.Resampling.average)
        with memory.open() as dataset:
            rasterio.shutil.copy(
                dataset, path, driver="GTiff", copy_src_overviews=bool(overviews), tiled=True, blockxsize=128,
                blockysize=128, **options,
            )  # fmt: skip
    return path


def footprint(path: Path) -> bytes:
    with rasterio.open(path) as dataset:
        return shapely.to_wkb(shapely.box(*transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)))


def collect(root: Path, url: str, records: dict[str, dict[str, tuple[str, int]]], **columns: list[Any]) -> Collection:
    """Make a collection of records, each with its bands as (name of the file below ``root``, band index)."""
    rows = []
    for number, (name, bands) in enumerate(records.items()):
        first = next(iter(bands.values()))[0]
        rows.append({
            "id": name, "datetime": dt.datetime(2024, 5, 1 + number, 10, tzinfo=dt.UTC),
            "geometry": footprint(root / first),
            "assets": {band: {"href": f"{url}/{file}", "band_index": index} for band, (file, index) in bands.items()},
            **{column: values[number] for column, values in columns.items()},
        })  # fmt: skip
    return build_from_table(pa.Table.from_pylist(rows), enrich_cog=True)


class Watched(MultiByteRangeResourceContainer):
    """A file on a disk that notes which of its tiles GDAL reads."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.ranges: set[tuple[int, int]] = set()

    def open(self, path: str, mode: str = "r", **_: Any) -> Any:
        if not self.isfile(path):
            raise FileNotFoundError(path)
        return _WatchedFile(self)

    def isfile(self, path: str) -> bool:
        return path == "watched.tif"

    def isdir(self, path: str) -> bool:
        return False

    def ls(self, path: str) -> list[str]:
        return ["watched.tif"]

    def mtime(self, path: str) -> int:
        return 0

    def size(self, path: str) -> int:
        return len(self.data)

    def rm(self, path: str) -> None:
        raise PermissionError(path)


class _WatchedFile(io.BytesIO):
    def __init__(self, whole: Watched) -> None:
        super().__init__(whole.data)
        self.whole = whole

    def __hash__(self) -> int:
        return id(self)

    def read(self, size: int | None = -1, /) -> bytes:
        self.whole.ranges.add((self.tell(), size or 0))
        return super().read(size)

    def get_byte_ranges(self, offsets: list[int], sizes: list[int]) -> list[bytes]:
        self.whole.ranges |= set(zip(offsets, sizes, strict=True))
        return [self.whole.data[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]


@contextmanager
def own_reader(path: Path) -> Iterator[tuple[Reader, Watched]]:
    """Open a file with rio-tiler's own reader, and list the tiles that it reads."""
    watched = Watched(path)
    with (
        rasterio.open("watched.tif", opener=watched, driver="GTiff", sharing=False) as dataset,
        Reader(None, dataset=dataset) as reader,
    ):
        yield reader, watched
