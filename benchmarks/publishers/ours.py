"""This project: ``build_from_table`` from nothing, then the changed partitions; ``load().subset().to_table()``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import measure

from rasteret_assets import build as build_changed
from rasteret_assets import build_from_table, load
from rasteret_assets.spec import CollectionSpec


def build(source: str, workspace: Path, headers: bool, overviews: bool, table: dict[str, Any]) -> int:
    """Publish the table, or what changed in it since the last call; returns the rows of what was built."""
    published = workspace / "bench_records"
    spec = CollectionSpec.of(
        path=source, name="bench", workspace_dir=workspace, enrich_cog=headers, overviews=overviews, **table
    )  # fmt: skip
    if not published.exists() and overviews:
        return len(build_from_table(source, name="bench", workspace_dir=workspace, enrich_cog=headers, **table))
    return int(build_changed(spec).totals["records"])


def query(published: str, bbox: tuple[float, ...]) -> int:
    return load(published).subset(bbox=bbox).to_table().num_rows


if __name__ == "__main__":
    measure(build, query)
