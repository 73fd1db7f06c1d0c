"""Keep a Parquet index of cloud GeoTIFF headers right: as a Dagster asset graph, and as a library.

The library is the names below; the graph is in :mod:`rasteret_assets.dagster`, and importing this package does not
import dagster. Each name is imported when it is first used, because ``rasteret-assets --help`` must not wait the second
that importing Arrow and the other libraries takes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from rasteret_assets.api import build, build_from_table, plan
    from rasteret_assets.collection.collection import Collection
    from rasteret_assets.collection.load import as_collection, load
    from rasteret_assets.collection.request import ReadRequest
    from rasteret_assets.dagster import RasterCollection as RasterCollection
    from rasteret_assets.from_stac import build_from_stac, harvest
    from rasteret_assets.spec import CloudConfig, CollectionSpec
    from rasteret_assets.storage import StorageBackend, create_backend

__version__ = "0.2.0"

__all__ = [
    "CloudConfig",
    "Collection",
    "CollectionSpec",
    "ReadRequest",
    "StorageBackend",
    "as_collection",
    "build",
    "build_from_stac",
    "build_from_table",
    "create_backend",
    "harvest",
    "load",
    "plan",
]

_MODULES: Final = {
    "CloudConfig": "spec",
    "Collection": "collection",
    "CollectionSpec": "spec",
    "ReadRequest": "collection.request",
    "StorageBackend": "storage",
    "as_collection": "collection",
    "build": "api",
    "build_from_stac": "from_stac",
    "build_from_table": "api",
    "create_backend": "storage",
    "harvest": "from_stac",
    "load": "collection",
    "plan": "api",
    # The Dagster component, by the name that a defs.yaml gives it.
    "RasterCollection": "dagster",
}


if not TYPE_CHECKING:  # because type checkers would take every misspelt name for one that is imported here

    def __getattr__(name: str) -> object:
        """Import a name of the library from its module."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
