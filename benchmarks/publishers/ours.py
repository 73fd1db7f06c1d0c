"""This project: ``build_from_table`` from nothing, then the changed partitions; ``load().subset().to_table()``."""

from __future__ import annotations

from pathlib import Path

from harness import measure

from rasteret_assets import build as build_from_nothing
from rasteret_assets import build_from_table, load
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.stages.build import build_partitions
from rasteret_assets.stages.look import load_profile
from rasteret_assets.stages.scan import open_source
from rasteret_assets.storage.create import create_backend
from rasteret_assets.storage.workspace import Workspace


def build(source: str, workspace: Path, headers: bool, overviews: bool) -> int:
    """Publish the table, or what changed in it since the last call; returns the rows of what was built."""
    published = workspace / "bench_records"
    spec = CollectionSpec.of(
        path=source, name="bench", workspace_dir=workspace, enrich_cog=headers, overviews=overviews
    )  # fmt: skip
    if not published.exists() and not overviews:
        return int(build_from_nothing(spec).totals["records"])
    if not published.exists():
        return len(build_from_table(source, name="bench", workspace_dir=workspace, enrich_cog=headers))
    where = Workspace.at(str(published))
    opened = open_source(source, spec)
    profile, states = load_profile(where, opened, spec), where.states()
    stale = [key for key in sorted({*profile.partitions, *states}) if _is_stale(key, profile, states, spec)]
    results = build_partitions(where, opened, spec, stale, create_backend())
    return sum(result.rows for result in results["collection"].values())


def query(published: str, bbox: tuple[float, ...]) -> int:
    return load(published).subset(bbox=bbox).to_table().num_rows


def _is_stale(key: str, profile, states, spec: CollectionSpec) -> bool:
    if key not in profile.partitions or key not in states:
        return True
    return profile.version(key, spec) != states[key]["source_version"]


if __name__ == "__main__":
    measure(build, query)
