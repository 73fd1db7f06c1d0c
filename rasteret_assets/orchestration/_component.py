"""Define a collection as a Dagster component: ``type: rasteret_assets.RasterCollection`` in a ``defs.yaml``.

The attributes are the fields of ``CollectionSpec``, so that a declaration means the same here, in
``collections/*.yaml`` and in Python. Any value may be a template. Templates are filled in when the component is loaded,
and their values are checked then; everything else is checked before, by the JSON schema (``dg check yaml``) and by the
model. Each mistake is reported with its line in the ``defs.yaml``.

https://docs.dagster.io/guides/build/components
https://docs.dagster.io/guides/build/components/building-pipelines-with-components/using-template-variables
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, get_args

import dagster as dg
import yaml
from pydantic import (
    BaseModel,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    model_validator,
)  # fmt: skip

from rasteret_assets.declare.editor_schema import describe
from rasteret_assets.declare.proposal import propose
from rasteret_assets.declare.yaml_files import with_absolute_paths
from rasteret_assets.errors import DeclarationError, Mistake
from rasteret_assets.orchestration.asset_graph.asset_specs import stage_spec
from rasteret_assets.orchestration.definitions import collection_definitions
from rasteret_assets.orchestration.graph_resources import BACKEND, FILESYSTEM, default_resources
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.spec_problems import explain

_SWITCH: Final = TypeAdapter(bool)


class ScaffoldParams(BaseModel):
    """Options of ``dg scaffold defs rasteret_assets.RasterCollection NAME``."""

    table: str | None = Field(default=None, description="Record table to propose for: path or URI of Parquet files.")
    workspace: str | None = Field(default=None, description="Folder or URI to publish in.")


class RasterCollectionScaffolder(dg.Scaffolder[ScaffoldParams]):
    """Write a ``defs.yaml``, with attributes that fit a record table if one is named."""

    @classmethod
    def get_scaffold_params(cls) -> type[ScaffoldParams]:
        """Return the class of the command's options."""
        return ScaffoldParams

    def scaffold(self, request: dg.ScaffoldRequest[ScaffoldParams]) -> None:
        """Write the ``defs.yaml``."""
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
    """Publish a record table as a GeoParquet collection with the header of every raster file, and keep it up to date.

    Makes four assets, from the raw rows to the published collection, with checks, jobs, sensors and schedules.
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
        """Return the definitions of the collection, and the resources that the project does not define itself."""
        del context
        own = (FILESYSTEM, BACKEND) if self.own_resources else ()
        resources = {key: value for key, value in default_resources().items() if key not in own}
        return dg.Definitions.merge(
            collection_definitions(self.spec, get_asset_spec=self.get_asset_spec), dg.Definitions(resources=resources)
        )

    def get_asset_spec(self, stage: str) -> dg.AssetSpec:
        """Return the asset spec of the source or of a stage; a subclass may change what ``super()`` returns here.

        Args:
            stage: ``source``, ``raw_records``, ``normalized_records``, ``band_metadata`` or ``collection``.
        """
        return stage_spec(self.spec, stage)


def _holds_template(value: Any) -> bool:
    """Tell whether a value of YAML is a template, or has a template in it."""
    if isinstance(value, str):
        return "{{" in value
    if isinstance(value, dict):
        return any(map(_holds_template, value.values()))
    return isinstance(value, list) and any(map(_holds_template, value))


def _admit_templates(schema: dict[str, Any]) -> None:
    """Let every value that a JSON schema describes be a template too, at any depth.

    The schema uses ``if`` and not ``anyOf``, because validators name neither fault nor line of a value that fits none
    of several schemas.
    """
    for name, value in schema.get("properties", {}).items():
        schema["properties"][name] = _or_template(value)
    for model in schema.get("$defs", {}).values():
        _admit_templates(model)


def _or_template(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema that allows values of ``schema`` and templates."""
    for inside in ("items", "additionalProperties"):
        if isinstance(schema.get(inside), dict):
            schema[inside] = _or_template(schema[inside])
    described: dict[str, Any] = {key: schema.pop(key) for key in ("default", "description", "title") if key in schema}
    return {"if": {"type": "string", "pattern": r"\{\{.*\}\}"}, "else": schema, **described}


def _with_structures(model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """Parse texts of templates that are lists or mappings, such as JSON in an environment variable.

    Args:
        model: whose fields the values are of.
        values: with their templates filled in.
    """
    made = dict(values)
    for name, field in model.model_fields.items():
        value, kinds = values.get(name), [field.annotation, *get_args(field.annotation)]
        if isinstance(value, str) and str not in kinds and value.lstrip().startswith(("{", "[")):
            with suppress(yaml.YAMLError):  # text that is not YAML stays, and pydantic refuses it by name
                made[name] = yaml.safe_load(value)
        elif isinstance(value, dict):
            inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
            made[name] = _with_structures(inner[0], value) if inner else value
    return made


def _mistake(context: dg.ComponentLoadContext, place: Sequence[str | int], text: str) -> Mistake:
    """Return a mistake in an attribute, with its line in the ``defs.yaml``."""
    field, tree = ".".join(map(str, place)), context.resolution_context.source_position_tree
    if tree is None:  # because the component was made in Python
        return Mistake(file=str(context.path), field=field, message=text)
    found = tree.source_error(["attributes", *place], inline_error_message=text, value_error=True)
    return Mistake(file=found.file_name, line=found.start_line_no, field=field, message=text)


class CollectionAttributes(CollectionSpec):
    """Fields under ``attributes:``; every value may be a template such as ``{{ env.NAME }}``.

    Args:
        own_resources: the project defines the resources ``rasteret_filesystem`` and ``rasteret_backend`` itself;
            otherwise the component defines both, for local files and credentials of the environment.
    """

    own_resources: bool = False

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def given(self) -> dict[str, Any]:
        """Return the attributes as the YAML has them, with their templates."""
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
        """Check attributes that have no templates; the others are checked when their templates are filled in."""
        if not isinstance(values, dict):
            return handler(values)
        literal = {name: value for name, value in values.items() if name == "path" or not _holds_template(value)}
        # Any name, because a spec with `harvest` needs one, and the component later gets that of its folder by default.
        unsaid = {"name": "harvested"} if "harvest" in literal else {"path": ""} if "harvest" in values else {}
        try:
            made = handler({**unsaid, **literal})
        except ValidationError as error:
            if len(literal) == len(values) or any(problem["loc"] for problem in error.errors()):
                raise
            # Fields that contradict each other pass until the templates beside them are filled in.
            made = handler({"path": literal.get("path", "")})
        made._given = values  # noqa: SLF001  (this validator makes the model)
        return made


def resolved_attributes(attributes: BaseModel | None, context: dg.ComponentLoadContext) -> tuple[CollectionSpec, bool]:
    """Return the collection that attributes declare, and whether the project defines the resources itself.

    Templates are filled in. Relative paths start at the folder of the ``defs.yaml``, which by default gives the
    collection its name.

    Raises:
        DeclarationError: naming line and field of every value that does not fit.
    """
    given = attributes.given if isinstance(attributes, CollectionAttributes) else {}
    values: dict[str, Any] = context.resolution_context.resolve_value(given, as_type=dict)
    values = with_absolute_paths(context.path, values)
    own = values.pop("own_resources", False)
    try:
        own_resources = _SWITCH.validate_python(own)
    except ValidationError:
        text = f"own_resources={own!r}: write true or false"
        raise DeclarationError([_mistake(context, ["own_resources"], text)]) from None
    try:
        spec = CollectionSpec(**{"name": context.path.name, **_with_structures(CollectionSpec, values)})
    except ValidationError as error:
        problems = explain(error, CollectionSpec)
        raise DeclarationError([_mistake(context, place, text) for place, text in problems]) from None
    return spec, own_resources
