"""odc-stac with 32 threads, from STAC items with the projection extension, so that no header is opened to plan."""

from __future__ import annotations

import datetime as dt

import odc.stac
import pystac
import shapely
from harness import GDAL_OPTIONS, Job, measure, total
from odc.geo.geobox import GeoBox
from odc.geo.geom import BoundingBox
from rasterio.warp import transform_bounds

#: Grid of the served file.
SIDE, SIZE, LEFT, TOP = 4096, 10.0, 399_960.0, 5_400_000.0


def read(job: Job) -> int:
    odc.stac.configure_rio(cloud_defaults=True)
    items = [_item(name, hrefs, job, number) for number, (name, hrefs) in enumerate(job.records.items())]
    result = 0
    for area in job.areas:
        crs, size, bounds = job.crs, SIZE, area
        if job.scenario == "crs":
            crs, size = job.target
            left, bottom, right, top = transform_bounds(job.crs, crs, *area)
            bounds = (left // size * size, bottom // size * size, -(-right // size) * size, -(-top // size) * size)
        grid = GeoBox.from_bbox(BoundingBox(*bounds, crs=f"EPSG:{crs}"), resolution=size, tight=True)
        how = "bilinear" if job.scenario == "crs" else "nearest"
        loaded = odc.stac.load(items, bands=list(job.bands), geobox=grid, pool=32, resampling=how, groupby="id")
        result += sum(total(loaded[band]) for band in job.bands)
    return result


def _item(name: str, hrefs: dict[str, str], job: Job, number: int) -> pystac.Item:
    bounds = LEFT, TOP - SIDE * SIZE, LEFT + SIDE * SIZE, TOP
    outline = shapely.box(*transform_bounds(job.crs, 4326, *bounds))
    moment = dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=number)
    item = pystac.Item(name, shapely.geometry.mapping(outline), list(outline.bounds), moment, {})
    item.stac_extensions.append("https://stac-extensions.github.io/projection/v1.1.0/schema.json")
    item.properties |= {
        "proj:epsg": job.crs, "proj:shape": [SIDE, SIDE], "proj:transform": [SIZE, 0, LEFT, 0, -SIZE, TOP],
    }  # fmt: skip
    for band, href in hrefs.items():
        item.add_asset(band, pystac.Asset(href, media_type=pystac.MediaType.COG, roles=["data"]))
    return item


if __name__ == "__main__":
    measure(read, setting=GDAL_OPTIONS)
