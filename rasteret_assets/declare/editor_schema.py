"""Make the JSON schema of a declaration, with descriptions from docstrings, for editors and for Dagster's ``dg``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any, Final, get_args

from pydantic import BaseModel

from rasteret_assets.spec import CollectionSpec

#: Name of the file that ``rasteret-assets init`` writes beside declarations.
SCHEMA_FILE: Final = "collection.schema.json"

_ARGUMENT = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a declaration in a YAML file."""
    schema = CollectionSpec.model_json_schema()
    describe(schema, CollectionSpec)
    return schema


def describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Put the descriptions of fields from docstrings into a JSON schema.

    Args:
        schema: of ``model``; it is changed in place.
        model: whose docstring is read, and the docstrings of its base classes and of the models in its fields.
    """
    parts = [(schema, model)]
    parts += [(schema["$defs"][found.__name__], found) for found in set(_inside(model))]
    for part, found in parts:
        documented = {
            name: " ".join(text.replace("``", "`").split())
            for base in reversed(found.__mro__)
            for name, text in _ARGUMENT.findall(inspect.cleandoc(base.__doc__ or ""))
        }
        part["description"] = " ".join((inspect.getdoc(found) or "").partition("\n\n")[0].replace("``", "`").split())
        for name, value in part.get("properties", {}).items():
            if name in documented:
                value.setdefault("description", documented[name])


def _inside(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield the models in the fields of a model, at any depth."""
    for field in model.model_fields.values():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield kind
                yield from _inside(kind)
