"""What stands under ``attributes:`` of a ``defs.yaml``: the fields of a collection, of which any may be a template.

Templates are filled in when the component is loaded, which is when their values are checked; all else is checked
before, by the JSON schema (``dg check yaml``) and by the model. Each mistake is told with its line.

https://docs.dagster.io/guides/build/components/building-pipelines-with-components/using-template-variables
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, Self, get_args

import dagster as dg
import yaml
from pydantic import BaseModel, ModelWrapValidatorHandler, PrivateAttr, TypeAdapter, ValidationError, model_validator

from rasteret_assets.declare.editor_schema import describe
from rasteret_assets.declare.files import with_absolute_paths
from rasteret_assets.errors import DeclarationError, Mistake
from rasteret_assets.spec import CollectionSpec, explain

_SWITCH: Final = TypeAdapter(bool)


def _holds_template(value: Any) -> bool:
    """Tell whether a value as YAML gives it is a template, or has one in it."""
    if isinstance(value, str):
        return "{{" in value
    if isinstance(value, dict):
        return any(map(_holds_template, value.values()))
    return isinstance(value, list) and any(map(_holds_template, value))


def _admit_templates(schema: dict[str, Any]) -> None:
    """Let every value that a JSON schema describes be a template too, at any depth.

    Told apart by ``if`` rather than ``anyOf``: of a value that fits none of several schemas nobody says what is wrong
    with it, nor in which line.
    """
    for name, value in schema.get("properties", {}).items():
        schema["properties"][name] = _or_template(value)
    for model in schema.get("$defs", {}).values():
        _admit_templates(model)


def _or_template(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON schema of what fits ``schema``, or is a template."""
    for inside in ("items", "additionalProperties"):
        if isinstance(schema.get(inside), dict):
            schema[inside] = _or_template(schema[inside])
    described: dict[str, Any] = {key: schema.pop(key) for key in ("default", "description", "title") if key in schema}
    return {"if": {"type": "string", "pattern": r"\{\{.*\}\}"}, "else": schema, **described}


def _with_structures(model: type[BaseModel], values: dict[str, Any]) -> dict[str, Any]:
    """Read lists and mappings that templates gave as texts, as an environment variable with JSON in it does.

    Args:
        model: whose fields the values are of.
        values: with their templates filled in.
    """
    made = dict(values)
    for name, field in model.model_fields.items():
        value, kinds = values.get(name), [field.annotation, *get_args(field.annotation)]
        if isinstance(value, str) and str not in kinds and value.lstrip().startswith(("{", "[")):
            with suppress(yaml.YAMLError):  # the value is refused as it is
                made[name] = yaml.safe_load(value)
        elif isinstance(value, dict):
            inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
            made[name] = _with_structures(inner[0], value) if inner else value
    return made


def _mistake(context: dg.ComponentLoadContext, place: Sequence[str | int], text: str) -> Mistake:
    """Return a mistake in an attribute, with the line of the ``defs.yaml`` in which it stands."""
    field, tree = ".".join(map(str, place)), context.resolution_context.source_position_tree
    if tree is None:  # made in Python
        return Mistake(file=str(context.path), field=field, message=text)
    found = tree.source_error(["attributes", *place], inline_error_message=text, value_error=True)
    return Mistake(file=found.file_name, line=found.start_line_no, field=field, message=text)


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
        # Where items are harvested to says the name, which is that of the folder where it is not given.
        unsaid = {"name": "harvested"} if "harvest" in known else {"path": ""} if "harvest" in values else {}
        try:
            made = handler({**unsaid, **known})
        except ValidationError as error:
            if len(known) == len(values) or any(problem["loc"] for problem in error.errors()):
                raise
            # Fields contradict each other, of which some are not known yet.
            made = handler({"path": known.get("path", "")})
        made._given = values  # noqa: SLF001  (of the model that is being made)
        return made


def resolved_attributes(attributes: BaseModel | None, context: dg.ComponentLoadContext) -> tuple[CollectionSpec, bool]:
    """Return the collection that some attributes declare, and whether the project brings the resources itself.

    Templates are filled in, relative paths start at the folder of the ``defs.yaml``, whose name is by default that of
    the collection.

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
