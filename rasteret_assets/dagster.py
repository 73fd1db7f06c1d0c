"""Import from here what a Dagster project uses: collections as definitions or components, resources, partitions.

    from rasteret_assets.dagster import RasterCollection, build_definitions, collection_definitions

The checks of a project's own are declared by :func:`rasteret_assets.checks.check`, which needs no Dagster.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from rasteret_assets.orchestration._component import RasterCollection
from rasteret_assets.orchestration.asset_graph.asset_specs import stage_spec
from rasteret_assets.orchestration.asset_graph.graph_partitions import partitions_of
from rasteret_assets.orchestration.definitions import build_definitions, collection_definitions
from rasteret_assets.orchestration.graph_resources import (
    BuildOptions,
    FilesystemResource,
    StorageBackendResource,
    default_resources,
)
from rasteret_assets.orchestration.materialize import materialize_collection

if TYPE_CHECKING:
    from rasteret_assets.orchestration._celery_launcher import WatchfulCeleryRunLauncher

__all__ = [
    "BuildOptions",
    "FilesystemResource",
    "RasterCollection",
    "StorageBackendResource",
    "WatchfulCeleryRunLauncher",
    "build_definitions",
    "collection_definitions",
    "default_resources",
    "materialize_collection",
    "partitions_of",
    "stage_spec",
]


if not TYPE_CHECKING:  # because type checkers would take every misspelt name for one that is imported here

    def __getattr__(name: str) -> object:
        """Import the launcher when it is asked for, because only the extra ``celery`` installs what it needs."""
        if name != "WatchfulCeleryRunLauncher":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module("rasteret_assets.orchestration._celery_launcher"), name)
