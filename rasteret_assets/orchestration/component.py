"""A collection as a Dagster Component: ``type: rasteret_assets.RasterCollection`` in a ``defs.yaml``.

The attributes are the fields of ``CollectionSpec``, so a declaration means the same here, in ``collections/*.yaml`` and
in Python. ``dg check yaml`` holds them against the schema made from it, with the line of every mistake.

https://docs.dagster.io/guides/build/components
"""

import inspect
import re
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from rasteret_assets.declare.files import from_folder
from rasteret_assets.declare.proposal import propose
from rasteret_assets.options import GraphOptions
from rasteret_assets.orchestration.assets import collection_assets
from rasteret_assets.orchestration.resources import default_resources
from rasteret_assets.spec import CloudConfig, CollectionSpec

#: The same objects for all components of a code location: Dagster merges equal resources, but not two of a kind.
_SHARED_RESOURCES = default_resources()

_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def _describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Puts the descriptions of a class docstring into its JSON schema, for editors and ``dg utils``."""
    documented = {
        name: " ".join(text.replace("``", "`").split())
        for base in reversed(model.__mro__)
        for name, text in _ARGUMENT.findall(inspect.cleandoc(base.__doc__ or ""))
    }
    for name, value in schema.get("properties", {}).items():
        if name in documented:
            value.setdefault("description", documented[name])


class CollectionAttributes(CollectionSpec):
    """What may stand under ``attributes:``.

    Args:
        own_resources: the project defines the resources ``filesystem`` and ``backend`` itself; otherwise the component
            brings those for local files and credentials of the environment.
    """

    model_config = ConfigDict(json_schema_extra=_describe)

    own_resources: bool = False


class ScaffoldParams(BaseModel):
    """Options of ``dg scaffold defs rasteret_assets.RasterCollection NAME``."""

    table: str | None = Field(default=None, description="Record table to look at: path or URI of Parquet files.")
    workspace_dir: str | None = Field(default=None, description="Folder or URI to publish in.")


class RasterCollectionScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Writes a ``defs.yaml``: proposed for a record table where one is named."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """Options of the command."""
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """Write the file."""
        params, name = request.params, request.target_path.name
        if params.table is None:
            attributes: dict[str, Any] = {"path": "s3://bucket/items.parquet", "enrich_cog": True}
        else:
            table = params.table if "://" in params.table else str(Path(params.table).expanduser().absolute())
            attributes = propose(table, name=name, workspace_dir=params.workspace_dir).values
        if params.workspace_dir is not None:
            attributes["workspace_dir"] = params.workspace_dir
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
        """The schema of ``attributes:``."""
        return CollectionAttributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "RasterCollection":
        """A component from its ``defs.yaml``; ``{{ env.NAME }}`` is resolved, relative paths start at the file."""
        given = attributes.model_dump(exclude_unset=True) if attributes is not None else {}
        values: dict[str, Any] = context.resolution_context.resolve_value(given, as_type=dict)
        own_resources = bool(values.pop("own_resources", False))
        for field in ("path", "workspace_dir"):
            if isinstance(values.get(field), str):
                values[field] = from_folder(context.path, values[field])
        for field, model in (("cloud_config", CloudConfig), ("graph", GraphOptions)):
            if isinstance(values.get(field), dict):
                values[field] = model(**values[field])
        return cls(CollectionSpec.of(**{"name": context.path.name, **values}), own_resources=own_resources)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The definitions of the collection."""
        del context
        resources = {} if self.own_resources else _SHARED_RESOURCES
        return dg.Definitions.merge(collection_assets(self.spec), dg.Definitions(resources=resources))
