"""Write the collection over which the examples of the documentation run: ``python examples/scenes.py``.

Two made-up scenes of May 2024 near Stuttgart, each of two bands, as GeoTIFFs with overviews in ``scenes_files``, and
their index in ``scenes_records`` of the folder you are in. Needs rasterio (``pip install -e ".[warp]"``).
"""

from __future__ import annotations

import datetime as dt
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import rasterio
import rasterio.shutil
import shapely
from affine import Affine
from rasterio.warp import transform_bounds

from rasteret_assets import Collection, build_from_table

#: Pixels of ten metres along each side of a scene, and the corner of all scenes in UTM zone 32.
SIDE, LEFT, TOP = 900, 500_000.0, 5_400_000.0


def write_scenes(folder: Path) -> Collection:
    """Write the files and the collection into a folder, and return the collection."""
    files = folder / "scenes_files"
    files.mkdir(parents=True, exist_ok=True)
    profile = {
        "driver": "GTiff", "width": SIDE, "height": SIDE, "count": 1, "dtype": "uint16", "crs": "EPSG:32632",
        "transform": Affine(10, 0, LEFT, 0, -10, TOP), "nodata": 0,
    }  # fmt: skip
    outline = shapely.box(*transform_bounds("EPSG:32632", 4326, LEFT, TOP - SIDE * 10, LEFT + SIDE * 10, TOP))
    rows = []
    for number in range(2):
        assets = {}
        for seed, band in enumerate(("B04", "B08")):
            plain, path = files / "plain.tif", files / f"{number}_{band}.tif"
            with rasterio.open(plain, "w", **profile) as dataset:
                dataset.write(np.random.default_rng(seed).integers(1, 4000, (1, SIDE, SIDE), dtype=np.uint16))
            rasterio.shutil.copy(plain, path, driver="COG", BLOCKSIZE=128, COMPRESS="DEFLATE")
            plain.unlink()
            assets[band] = {"href": str(path.resolve())}
        rows.append({
            "id": f"scene{number}", "datetime": dt.datetime(2024, 5, 3 + number, tzinfo=dt.UTC),
            "geometry": outline.wkb, "assets": assets, "eo:cloud_cover": 3.0 + 9 * number,
        })  # fmt: skip
    return build_from_table(
        pa.Table.from_pylist(rows), name="scenes", workspace_dir=folder, enrich_cog=True, force=True
    )


if __name__ == "__main__":
    sys.stdout.write(f"{write_scenes(Path.cwd())}\n")
