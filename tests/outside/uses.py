"""What users write, with the types that they are promised."""

from pathlib import Path
from typing import Any, assert_type

import dagster as dg
import numpy as np
import numpy.typing as npt
import shapely
import xarray as xr
from obstore.auth.planetary_computer import PlanetaryComputerCredentialProvider

import rasteret_assets as ra
from rasteret_assets.dagster import RasterCollection, build_definitions, collection_definitions, default_resources
from rasteret_assets.error_classes import ErrorClass
from rasteret_assets.errors import RasteretAssetsError

AREA = (11.0, 48.0, 11.1, 48.1)


def build() -> ra.Collection:
    """Build from a record table, with options of every kind."""
    collection = ra.build_from_table(
        "scenes.parquet",
        name="s2",
        workspace_dir="index",
        enrich_cog=True,
        band_codes=["B04"],
        filter_expr=[("cloud_cover", "<", 20)],
    )
    return assert_type(collection, ra.Collection)


def build_from_catalog() -> ra.Collection:
    """Build from the items of a STAC API."""
    return ra.build_from_stac(
        name="s2",
        stac_api="https://stac.example/v1",
        collection="sentinel-2-l2a",
        bbox=AREA,
        date_range=("2024-05-01", "2024-05-31"),
        band_map={"B04": "red"},
    )


def increment(spec: ra.CollectionSpec) -> str:
    """Plan and build what changed."""
    plan = ra.plan(spec)
    report = ra.build(spec, partitions=["2024-05"], force=True)
    return f"{plan}: {report.totals['headers_fetched']:,} headers"


def read(collection: ra.Collection) -> None:
    """Read pixels in every form."""
    few = assert_type(collection.subset(bbox=AREA, cloud_cover_lt=20), ra.Collection)
    array: npt.NDArray[Any] = few.get_numpy(AREA, ["B04"], on_error="mask")
    assert_type(array.shape, tuple[Any, ...])
    assert_type(few.get_xarray(shapely.box(*AREA), "B04", resolution=20, chunks={"y": 512}), xr.Dataset)
    few.get_gdf(AREA, "B04").to_parquet("pixels.parquet")
    few.sample_points(np.array([[11.0, 48.0]]), "B04", match="latest")


def declare_harvest() -> ra.CollectionSpec:
    """Describe a collection of harvested items, in the forms in which people write values."""
    spec = ra.CollectionSpec.of(
        name="s2",
        workspace_dir=Path("index"),
        harvest={"stac_api": "https://stac.example/v1", "collections": ["sentinel-2-l2a"], "bbox": AREA},
        band_codes=["B04", "B08"],
        filter_expr=[("cloud_cover", "<", 20)],
        cloud_config={"provider": "aws", "requester_pays": True},
        graph={"owners": ["team:maps"], "autostart": True},
    )
    ra.CloudConfig.register("sentinel-2-l2a", ra.CloudConfig("aws", region="eu-central-1"))
    return assert_type(spec, ra.CollectionSpec)


def from_document(document: dict[str, Any]) -> ra.CollectionSpec:
    """Describe a collection by values whose types nobody has declared."""
    return ra.CollectionSpec.of(**document)


def store() -> ra.StorageBackend:
    """Open addresses of Azure with tokens of a provider."""
    return ra.create_backend(PlanetaryComputerCredentialProvider("https://a.blob.core.windows.net/container"))


def declare() -> dg.Definitions:
    """Merge the assets of a collection into a Dagster project."""
    spec = ra.CollectionSpec.of(path="scenes.parquet", name="s2", workspace_dir="index", enrich_cog=True)
    assert issubclass(RasterCollection, dg.Component)
    resources: dict[str, object] = {**default_resources(), "mine": 1}
    return dg.Definitions.merge(collection_definitions(spec), build_definitions([spec], resources=resources))


def catch(error: RasteretAssetsError) -> str:
    """Name the class of an error."""
    return assert_type(error.error_class, ErrorClass).value
