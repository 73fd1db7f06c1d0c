"""rasteret, in its own Python: ``build_from_table`` and ``load().subset().to_table()``."""

from __future__ import annotations

from pathlib import Path

import rasteret
from harness import measure


def build(source: str, workspace: Path, headers: bool) -> int:
    built = rasteret.build_from_table(source, name="bench", workspace_dir=workspace, enrich_cog=headers, force=True)
    return len(built)


def query(published: str, bbox: tuple[float, ...]) -> int:
    return rasteret.load(published).subset(bbox=bbox).to_table().num_rows


if __name__ == "__main__":
    measure(build, query)
