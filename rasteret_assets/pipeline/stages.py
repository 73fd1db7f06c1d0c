"""List the four stages in the order in which data flows, and run one of them.

The library runs the stages in a row (:mod:`~rasteret_assets.pipeline.build`), a Dagster step runs one of them: both
call :func:`run_stage`. A stage reads the table of the stage before it from the workspace, or from memory if the same
process has just made it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rasteret_assets.pipeline._header_stage import make_band_metadata
from rasteret_assets.pipeline._publish_stage import make_collection
from rasteret_assets.pipeline._raw_stage import make_raw_records
from rasteret_assets.pipeline._record_stage import make_normalized_records
from rasteret_assets.pipeline.stage import (
    Build,
    Stage,
    StageResult,
)
from rasteret_assets.schema import (
    BANDS,
    COLLECTION,
    NORMALIZED,
    RAW,
)
from rasteret_assets.storage.process.memory import give_back

#: The stages, in the order in which data flows.
STAGES: Final[dict[str, Stage]] = {
    stage.name: stage
    for stage in (
        Stage(name=RAW, inputs=(), make=make_raw_records),
        Stage(name=NORMALIZED, inputs=(RAW,), make=make_normalized_records),
        Stage(name=BANDS, inputs=(NORMALIZED,), make=make_band_metadata),
        Stage(name=COLLECTION, inputs=(NORMALIZED, BANDS), make=make_collection),
    )
}


def run_stage(name: str, build: Build, keys: Sequence[str]) -> list[StageResult]:
    """Run one stage over some partitions.

    Args:
        name: of the stage.
        build: workspace, spec and whatever else the stage needs.
        keys: of the partitions; a partition that is gone from the source is removed.

    Returns:
        A result for every partition, in the order of ``keys``; partitions in ``build.failed`` have none.

    Raises:
        RasteretAssetsError: if an error stopped the stage; the files of partitions that were done stay.
    """
    results = STAGES[name].make(build, keys)
    give_back()
    return [results[key] for key in keys if key in results]
