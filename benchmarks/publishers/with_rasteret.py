"""rasteret, in its own Python: ``build_from_table`` and ``load().subset().to_table()``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rasteret
from harness import measure
from rasteret.fetch import cog

# Its client refuses plain http, and the benchmark's server speaks nothing else.
cog._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"  # noqa: SLF001 - there is no public way


def build(source: str, workspace: Path, headers: bool, overviews: bool, table: dict[str, Any]) -> int:
    del overviews  # it keeps none
    built = rasteret.build_from_table(
        source, name="bench", workspace_dir=workspace, enrich_cog=headers, force=True, **table
    )  # fmt: skip
    return len(built)


def query(published: str, bbox: tuple[float, ...]) -> int:
    return rasteret.load(published).subset(bbox=bbox).to_table().num_rows


if __name__ == "__main__":
    measure(build, query)
