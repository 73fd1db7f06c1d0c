"""A collection as a Dagster Component: ``type: rasteret_assets.RasterCollection`` in a ``defs.yaml``.

The attributes are the fields of ``CollectionSpec``, so a declaration means the same here, in ``collections/*.yaml`` and
in Python. ``dg check yaml`` holds them against the schema made from it, with the line of every mistake.

https://docs.dagster.io/guides/build/components
"""

from pathlib import Path
from typing import Any, Self

import dagster as dg
from pydantic import BaseModel, Field

from rasteret_assets.declare.proposal import propose
from rasteret_assets.orchestration.asset_specs import stage_spec
from rasteret_assets.orchestration.assets import collection_assets
from rasteret_assets.orchestration.attributes import CollectionAttributes, resolved_attributes
from rasteret_assets.orchestration.resources import BACKEND, FILESYSTEM, default_resources
from rasteret_assets.spec import CollectionSpec


class ScaffoldParams(BaseModel):
    """Options of ``dg scaffold defs rasteret_assets.RasterCollection NAME``."""

    table: str | None = Field(default=None, description="Record table to look at: path or URI of Parquet files.")
    workspace: str | None = Field(default=None, description="Folder or URI to publish in.")


class RasterCollectionScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes a ``defs.yaml``: proposed for a record table where one is named."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """Return the class of the command's options."""
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """Write the file."""
        params, name = request.params, request.target_path.name
        if params.table is None:
            attributes: dict[str, Any] = {"path": "s3://bucket/items.parquet", "enrich_cog": True}
        else:
            table = params.table if "://" in params.table else str(Path(params.table).expanduser().absolute())
            attributes = propose(table, name=name, workspace_dir=params.workspace).values
        if params.workspace is not None:
            attributes["workspace_dir"] = params.workspace
        dg.scaffold_component(request, attributes)


@dg.scaffold_with(RasterCollectionScaffolder)
class RasterCollection(dg.Component):
    """A table of raster items, and the GeoParquet collection with the header of every file that is kept of it.

    Four assets from the record table to the published collection, with checks, jobs, sensors and schedules.
    """

    def __init__(self, spec: CollectionSpec, *, own_resources: bool = False) -> None:
        self.spec = spec
        self.own_resources = own_resources

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """Return the class that describes ``attributes:``."""
        return CollectionAttributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """Return the component of a ``defs.yaml``."""
        spec, own_resources = resolved_attributes(attributes, context)
        return cls(spec, own_resources=own_resources)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the definitions of the collection."""
        del context
        own = (FILESYSTEM, BACKEND) if self.own_resources else ()
        resources = {key: value for key, value in default_resources().items() if key not in own}
        return dg.Definitions.merge(
            collection_assets(self.spec, get_asset_spec=self.get_asset_spec), dg.Definitions(resources=resources)
        )

    def get_asset_spec(self, stage: str) -> dg.AssetSpec:
        """Return the asset spec of the source or of a stage.

        A subclass changes what ``super().get_asset_spec(stage)`` returns.

        Args:
            stage: ``source``, ``raw_records``, ``normalized_records``, ``band_metadata`` or ``collection``.
        """
        return stage_spec(self.spec, stage)
