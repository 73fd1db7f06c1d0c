"""Declarations that do not fit, as assets of the catalog: the other collections of the code location load without them.

https://docs.dagster.io/guides/build/assets/external-assets
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import dagster as dg

from rasteret_assets.errors import Mistake
from rasteret_assets.orchestration.markdown import sentence
from rasteret_assets.orchestration.reporting import table_metadata

#: Group in which the catalog and the asset graph show broken declarations.
BROKEN_GROUP: Final = "broken_declarations"


def broken_declarations(mistakes: Mapping[Path, Sequence[Mistake]]) -> list[dg.AssetSpec]:
    """Return an external asset for every declaration with mistakes, and log the mistakes.

    Args:
        mistakes: by the file in which they stand.
    """
    log = dg.get_dagster_logger("rasteret_assets")
    for file, found in mistakes.items():
        told = "; ".join(map(str, found))
        log.error("%s is broken and left out; the other collections are loaded: %s", file, told)
    return [_asset(file, found) for file, found in mistakes.items()]


def _asset(file: Path, mistakes: Sequence[Mistake]) -> dg.AssetSpec:
    mistakes = sorted(mistakes, key=lambda mistake: mistake.line or 0)
    rows = [{"line": mistake.line or 0, "field": mistake.field, "mistake": mistake.message} for mistake in mistakes]
    lines = "\n".join(f"* {sentence(str(mistake))}" for mistake in mistakes)
    return dg.AssetSpec(
        key=[BROKEN_GROUP, file.name],
        group_name=BROKEN_GROUP,
        description=f"**This declaration is broken: its collection is not loaded.**\n\n{lines}\n\nCorrect the file and "
        "reload the code location; `rasteret-assets validate` tells the same.",
        kinds={"yaml"},
        metadata={"file": dg.MetadataValue.path(str(file)), "mistakes": table_metadata(rows)},
    )
