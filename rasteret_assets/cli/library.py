"""What commands use of the package, each name imported when it is first used.

Importing Arrow and the other libraries takes a second, Dagster several, which ``--help`` and the completion of a shell
must not wait for.
"""

# ruff: noqa: PLC0414  (type checkers take a name for one of this module where it is imported "as" itself)

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyarrow.parquet import filters_to_expression as filters_to_expression

    from rasteret_assets.api import build as build
    from rasteret_assets.api import plan as plan
    from rasteret_assets.checks import check_partition as check_partition
    from rasteret_assets.checks import checks_of as checks_of
    from rasteret_assets.checks.registry import CHECKED as CHECKED
    from rasteret_assets.cli._code_location import load_code_location as load_code_location
    from rasteret_assets.cli.instance import open_instance as open_instance
    from rasteret_assets.collection import load as load
    from rasteret_assets.declare import COLLECTIONS_VARIABLE as COLLECTIONS_VARIABLE
    from rasteret_assets.declare import SCHEMA_FILE as SCHEMA_FILE
    from rasteret_assets.declare import find_recipe as find_recipe
    from rasteret_assets.declare import json_schema as json_schema
    from rasteret_assets.declare import propose as propose
    from rasteret_assets.declare import read_files as read_files
    from rasteret_assets.declare import read_spec as read_spec
    from rasteret_assets.declare import recipes as recipes
    from rasteret_assets.demo.walkthrough import run_demo as run_demo
    from rasteret_assets.harvesting.harvest import harvest_items as harvest_items
    from rasteret_assets.harvesting.harvest import refuse_failed_windows as refuse_failed_windows
    from rasteret_assets.harvesting.window_ledger import read_ledger as read_ledger
    from rasteret_assets.headers.failures import REMEDIES as REMEDIES
    from rasteret_assets.headers.failures import read_failures as read_failures
    from rasteret_assets.pipeline.plan import stale_partitions as stale_partitions
    from rasteret_assets.pipeline.tables import list_partitions as list_partitions
    from rasteret_assets.pipeline.tables import open_table as open_table
    from rasteret_assets.progress import harvest_progress as harvest_progress
    from rasteret_assets.source.stored import load_profile as load_profile
    from rasteret_assets.source.stored import open_record_table as open_record_table
    from rasteret_assets.storage.whole_files import naming_target as naming_target
    from rasteret_assets.storage.workspace import Workspace as Workspace
    from rasteret_assets.storage.workspace.commit import verified_states as verified_states

#: Module of every name above.
MODULES: Final = {
    name: module
    for module, names in {
        "pyarrow.parquet": ("filters_to_expression",),
        "rasteret_assets.api": ("build", "plan"),
        "rasteret_assets.checks": ("check_partition", "checks_of"),
        "rasteret_assets.checks.registry": ("CHECKED",),
        "rasteret_assets.cli._code_location": ("load_code_location",),
        "rasteret_assets.cli.instance": ("open_instance",),
        "rasteret_assets.collection": ("load",),
        "rasteret_assets.declare": (
            "COLLECTIONS_VARIABLE", "SCHEMA_FILE", "find_recipe", "json_schema", "propose", "read_files", "read_spec",
            "recipes",
        ),
        "rasteret_assets.demo.walkthrough": ("run_demo",),
        "rasteret_assets.harvesting.harvest": ("harvest_items", "refuse_failed_windows"),
        "rasteret_assets.harvesting.window_ledger": ("read_ledger",),
        "rasteret_assets.headers.failures": ("REMEDIES", "read_failures"),
        "rasteret_assets.pipeline.plan": ("stale_partitions",),
        "rasteret_assets.pipeline.tables": ("list_partitions", "open_table"),
        "rasteret_assets.progress": ("harvest_progress",),
        "rasteret_assets.source.stored": ("load_profile", "open_record_table"),
        "rasteret_assets.storage.whole_files": ("naming_target",),
        "rasteret_assets.storage.workspace": ("Workspace",),
        "rasteret_assets.storage.workspace.commit": ("verified_states",),
    }.items()
    for name in names
}  # fmt: skip


if not TYPE_CHECKING:  # because type checkers would take every misspelt name for one that is imported here

    def __getattr__(name: str) -> object:
        """Import a name from its module."""
        if name not in MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(MODULES[name]), name)
        return value
