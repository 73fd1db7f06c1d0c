"""Keep a Parquet index of cloud GeoTIFF headers right: as a Dagster asset graph, and as a library.

The library is these names; the graph is in ``rasteret_assets.orchestration``, which alone imports dagster.
"""

from importlib import import_module
from typing import Any

from rasteret_assets.api import build, build_from_table, plan
from rasteret_assets.collection import Collection, as_collection, load
from rasteret_assets.spec import CloudConfig, CollectionSpec
from rasteret_assets.storage import StorageBackend, create_backend

__version__ = "0.2.0"

__all__ = [
    "CloudConfig",
    "Collection",
    "CollectionSpec",
    "StorageBackend",
    "as_collection",
    "build",
    "build_from_table",
    "create_backend",
    "load",
    "plan",
]


def __getattr__(name: str) -> Any:
    """The Dagster component of this package, imported only where Dagster asks for it: the rest knows no Dagster."""
    if name == "RasterCollection":
        return import_module("rasteret_assets.orchestration.component").RasterCollection
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "RasterCollection"]
