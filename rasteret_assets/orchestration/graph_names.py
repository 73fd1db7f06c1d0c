"""Name the parts of a collection in Dagster: asset keys, jobs, sensors, schedules, steps, resources."""

import re

import dagster as dg

from rasteret_assets.schema import PARSER_VERSION
from rasteret_assets.spec import CollectionSpec

SOURCE = "source"
#: Last part of the key of the asset of harvested STAC items.
HARVESTED = "harvested_items"
#: Ends the name of the step that checks what is published.
PUBLISHED_CHECKS = "published_checks"


def identifier(name: str) -> str:
    """Return a collection's name in the letters, digits and underscores of Dagster's names."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def source_key(spec: CollectionSpec) -> dg.AssetKey:
    """Return the asset key of a collection's record table."""
    return dg.AssetKey([*spec.graph.key_prefix, spec.name, SOURCE])


def stage_key(spec: CollectionSpec, stage: str) -> dg.AssetKey:
    """Return the asset key of a stage."""
    return dg.AssetKey([*spec.graph.key_prefix, spec.name, stage])


def build_job_name(spec: CollectionSpec) -> str:
    """Return the name of the job that builds partitions of a collection."""
    return f"{identifier(spec.name)}_build"


def rebuild_job_name(spec: CollectionSpec) -> str:
    """Return the name of the job that builds partitions by force: rows and headers are read again."""
    return f"{identifier(spec.name)}_rebuild"


def revalidate_job_name(spec: CollectionSpec) -> str:
    """Return the name of the job that asks whether the files of indexed headers changed."""
    return f"{identifier(spec.name)}_revalidate"


def profile_job_name(spec: CollectionSpec) -> str:
    """Return the name of the job that profiles the record table of a collection."""
    return f"{identifier(spec.name)}_look"


def harvest_job_name(spec: CollectionSpec) -> str:
    """Return the name of the job that harvests the STAC items of a collection."""
    return f"{identifier(spec.name)}_harvest"


def harvest_windows_job_name(spec: CollectionSpec) -> str:
    """Return the name of the job that asks for some windows of STAC items again."""
    return f"{identifier(spec.name)}_harvest_windows"


def refresh_schedule_name(spec: CollectionSpec) -> str:
    """Return the name of the schedule that launches the job that profiles the source."""
    return f"{identifier(spec.name)}_refresh_schedule"


def op_name(spec: CollectionSpec, step: str) -> str:
    """Return the name of a collection's step: :data:`SOURCE`, a stage, or :data:`PUBLISHED_CHECKS`."""
    return f"{identifier(spec.name)}__{step}"


def io_manager_key(spec: CollectionSpec) -> str:
    """Return the resource key of the IO manager that loads a collection for assets that take it as an argument."""
    return f"rasteret_io_manager_{identifier(spec.name)}"


def code_version(spec: CollectionSpec) -> str:
    """Return the code version of a collection's assets, by which the UI marks partitions of other versions."""
    return f"{PARSER_VERSION}-{spec.content_hash}"
