"""Read declarations of collections from YAML files, with the line of every mistake, and propose them for record tables.

No module of this folder imports Dagster, so that the command line need not wait for its import.
"""

from rasteret_assets.declare.editor_schema import SCHEMA_FILE, json_schema
from rasteret_assets.declare.proposal import Proposal, propose
from rasteret_assets.declare.recipes import Recipe, find_recipe, recipes
from rasteret_assets.declare.yaml_files import (
    COLLECTIONS_VARIABLE,
    Declarations,
    collections_folder,
    declaration_files,
    read_declarations,
    read_files,
    read_spec,
    read_specs,
)

__all__ = [
    "COLLECTIONS_VARIABLE",
    "SCHEMA_FILE",
    "Declarations",
    "Proposal",
    "Recipe",
    "collections_folder",
    "declaration_files",
    "find_recipe",
    "json_schema",
    "propose",
    "read_declarations",
    "read_files",
    "read_spec",
    "read_specs",
    "recipes",
]
