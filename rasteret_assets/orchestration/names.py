"""What Dagster calls the parts of a collection: asset keys, jobs, sensors, schedules."""

import re

import dagster as dg

from rasteret_assets.spec import CollectionSpec

SOURCE = "source"


def identifier(name: str) -> str:
    """A collection's name as Dagster's names of jobs, sensors and groups allow it: letters, digits and underscores."""
    return re.sub(r"\W", "_", name, flags=re.ASCII)


def source_key(spec: CollectionSpec) -> dg.AssetKey:
    """Asset key of a collection's record table."""
    return dg.AssetKey([spec.name, SOURCE])


def stage_key(spec: CollectionSpec, stage: str) -> dg.AssetKey:
    """Asset key of one of the stages."""
    return dg.AssetKey([spec.name, stage])


def build_job_name(spec: CollectionSpec) -> str:
    """Name of the job that builds partitions of a collection."""
    return f"{identifier(spec.name)}_build"


def rebuild_job_name(spec: CollectionSpec) -> str:
    """Name of the job that reads every header of a partition again, and builds it."""
    return f"{identifier(spec.name)}_rebuild"


def revalidate_job_name(spec: CollectionSpec) -> str:
    """Name of the job that asks whether known files have changed, and builds what has."""
    return f"{identifier(spec.name)}_revalidate"
