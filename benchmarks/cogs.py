"""The three kinds of GDAL-written COG that are served, and what tifffile says their tile tables hold.

Pixels are constant, so that the files are small and quickly made; the headers are as GDAL's COG driver writes them, and
every tile is present, so that the tile tables are those of a full image. tifffile is the oracle because no reader that
is measured here uses it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import rasterio
import rasterio.shutil
import tifffile
from affine import Affine


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of file: its grid, and how many tiles the full resolution image has."""

    name: str
    width: int
    height: int
    tile: int
    bands: int
    dtype: str
    tiles: int


KINDS: Final = {
    kind.name: kind
    for kind in (
        Kind(name="s2", width=10980, height=10980, tile=1024, bands=1, dtype="uint16", tiles=121),
        Kind(name="naip", width=8192, height=9200, tile=512, bands=4, dtype="uint8", tiles=288),
        Kind(name="large", width=20000, height=20000, tile=256, bands=1, dtype="uint16", tiles=6241),
    )
}


@dataclass(frozen=True, kw_only=True)
class ServedFile:
    """A file of one kind on disk; ``oracle`` is the JSON file with its ``offsets`` and ``byte_counts``."""

    kind: Kind
    path: Path
    oracle: Path

    @property
    def header_bytes(self) -> int:
        """Bytes before the first tile of any resolution."""
        return int(json.loads(self.oracle.read_text())["header_bytes"])


def make_file(kind: Kind, folder: Path) -> ServedFile:
    """Return the file of a kind in ``folder``, which is made unless it exists."""
    folder.mkdir(parents=True, exist_ok=True)
    made = ServedFile(kind=kind, path=folder / f"{kind.name}.tif", oracle=folder / f"{kind.name}.json")
    if not made.oracle.exists():
        _write_cog(kind, made.path)
        made.oracle.write_text(json.dumps(_read_oracle(kind, made.path)))
    return made


def make_changed_file(file: ServedFile, folder: Path) -> ServedFile:
    """Return a tiled GeoTIFF of the same grid, changed after it was written: its header is behind the pixels."""
    kind = replace(file.kind, name=f"{file.kind.name}-changed")
    made = ServedFile(kind=kind, path=folder / f"{kind.name}.tif", oracle=folder / f"{kind.name}.json")
    if not made.oracle.exists():
        rasterio.shutil.copy(
            file.path, made.path, driver="GTiff", TILED="YES", BLOCKXSIZE=kind.tile, BLOCKYSIZE=kind.tile,
            COMPRESS="DEFLATE",
        )  # fmt: skip
        with rasterio.open(made.path, "r+") as dataset:
            dataset.update_tags(PROCESSED="again")
        made.oracle.write_text(json.dumps(_read_oracle(kind, made.path)))
    return made


def _write_cog(kind: Kind, path: Path) -> None:
    source = path.with_suffix(".source.tif")
    profile = {
        "driver": "GTiff", "width": kind.width, "height": kind.height, "count": kind.bands, "dtype": kind.dtype,
        "crs": "EPSG:32632", "transform": Affine(10, 0, 399_960, 0, -10, 5_400_000), "nodata": 0, "sparse_ok": True,
        "tiled": True, "interleave": "pixel",
    }  # fmt: skip
    with rasterio.open(source, "w", **profile):
        pass  # a sparse source reads as constant; the COG driver writes its tiles nevertheless
    options = {"BLOCKSIZE": kind.tile, "COMPRESS": "DEFLATE", "PREDICTOR": "YES", "OVERVIEW_RESAMPLING": "NEAREST"}
    rasterio.shutil.copy(source, path, driver="COG", **options)
    source.unlink()


def _read_oracle(kind: Kind, path: Path) -> dict[str, object]:
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = list(tiff.pages[0].dataoffsets), list(tiff.pages[0].databytecounts)
        first = min(min(page.dataoffsets) for page in tiff.pages)
    if len(offsets) != kind.tiles or not all(offsets) or not all(counts):
        raise ValueError(f"{path}: {len(offsets)} tiles, expected {kind.tiles}, none of them sparse")
    return {"offsets": offsets, "byte_counts": counts, "header_bytes": first}
