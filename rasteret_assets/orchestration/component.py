"""A collection as a Dagster Component: ``type: rasteret_assets.RasterCollection`` in a ``defs.yaml``.

The attributes are the fields of ``CollectionSpec``, so a declaration means the same here, in ``collections/*.yaml`` and
in Python. ``dg check yaml`` holds them against the schema made from it, with the line of every mistake.

https://docs.dagster.io/guides/build/components
"""

from pathlib import Path
from typing import Any, Final, Self

import dagster as dg
from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from rasteret_assets.declare.editor_schema import describe
from rasteret_assets.declare.files import from_folder
from rasteret_assets.declare.proposal import propose
from rasteret_assets.orchestration.asset_specs import stage_spec
from rasteret_assets.orchestration.assets import collection_assets
from rasteret_assets.orchestration.resources import BACKEND, FILESYSTEM, default_resources
from rasteret_assets.spec import CollectionSpec

_SWITCH: Final = TypeAdapter(bool)


def _holds_template(value: Any) -> bool:
    """Tell whether a value as YAML gives it is a template, or has one in it."""
    if isinstance(value, str):
        return "{{" in value
    if isinstance(value, dict):
        return any(map(_holds_template, value.values()))
    return isinstance(value, list) and any(map(_holds_template, value))


def _admit_templates(schema: dict[str, Any]) -> None:
    """Let every property of a JSON schema be a template too, but for those with properties of their own.

    A mistake in one of these would be told without its line, as a value that fits neither schema.
    """
    for model in (schema, *schema.get("$defs", {}).values()):
        for name, value in model.get("properties", {}).items():
            if "$ref" in value:
                continue
            described = {key: value.pop(key) for key in ("default", "description", "title") if key in value}
            template = {"type": "string", "pattern": r"\{\{.*\}\}"}
            model["properties"][name] = {"anyOf": [value, template], **described}


class CollectionAttributes(CollectionSpec):
    """What may stand under ``attributes:``; every value may be a template such as ``{{ env.NAME }}``.

    Args:
        own_resources: the project defines the resources ``rasteret_filesystem`` and ``rasteret_backend`` itself;
            otherwise the component brings those for local files and credentials of the environment.
    """

    own_resources: bool = False

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def given(self) -> dict[str, Any]:
        """Return the attributes as they were written, with their templates."""
        return self._given

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the JSON schema that editors and ``dg check yaml`` use."""
        schema = super().model_json_schema(*args, **kwargs)
        describe(schema, cls)
        _admit_templates(schema)
        return schema

    @model_validator(mode="wrap")
    @classmethod
    def _later(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Check attributes without templates; the others are checked when their templates are filled in."""
        if not isinstance(values, dict):
            return handler(values)
        known = {name: value for name, value in values.items() if name == "path" or not _holds_template(value)}
        try:
            made = handler(known)
        except ValidationError as error:
            if len(known) == len(values) or any(problem["loc"] for problem in error.errors()):
                raise
            # Fields contradict each other, of which some are not known yet.
            made = handler({"path": known["path"]})
        made._given = values  # noqa: SLF001  (of the model that is being made)
        return made


class ScaffoldParams(BaseModel):
    """Options of ``dg scaffold defs rasteret_assets.RasterCollection NAME``."""

    table: str | None = Field(default=None, description="Record table to look at: path or URI of Parquet files.")
    workspace_dir: str | None = Field(default=None, description="Folder or URI to publish in.")


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
        """Return the class that describes ``attributes:``."""
        return CollectionAttributes

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> "RasterCollection":
        """Return the component of a ``defs.yaml``: templates are filled in, relative paths start at the file."""
        given = attributes.given if isinstance(attributes, CollectionAttributes) else {}
        values: dict[str, Any] = context.resolution_context.resolve_value(given, as_type=dict)
        own_resources = _SWITCH.validate_python(values.pop("own_resources", False))
        for field in ("path", "workspace_dir"):
            if isinstance(values.get(field), str):
                values[field] = from_folder(context.path, values[field])
        return cls(CollectionSpec.of(**{"name": context.path.name, **values}), own_resources=own_resources)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Return the definitions of the collection."""
        del context
        own = (FILESYSTEM, BACKEND) if self.own_resources else ()
        resources = {key: value for key, value in default_resources().items() if key not in own}
        return dg.Definitions.merge(
            collection_assets(self.spec, get_asset_spec=self.get_asset_spec), dg.Definitions(resources=resources)
        )

    def get_asset_spec(self, stage: str) -> dg.AssetSpec:
        """Return the asset spec of a stage; a subclass changes what ``super().get_asset_spec(stage)`` returns.

        Args:
            stage: ``raw_records``, ``normalized_records``, ``band_metadata`` or ``collection``.
        """
        return stage_spec(self.spec, stage)
