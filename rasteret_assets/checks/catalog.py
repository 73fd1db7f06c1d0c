"""Which checks there are: their names, the table each is about, and whether a partition that fails is published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rasteret_assets.schema import BANDS, COLLECTION, NORMALIZED, REJECTED


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    Args:
        name: unique within its stage.
        stage: table that it is about.
        blocking: whether an error keeps the partition from being published.
        description: what must be true, in a sentence.
    """

    name: str
    stage: str
    blocking: bool
    description: str


CHECKS: Final = (
    Check(
        name="schema_contract", stage=NORMALIZED, blocking=True,
        description="Contract columns have their types, and every record lies in the partition it is of.",
    ),
    Check(
        name="unique_ids", stage=NORMALIZED, blocking=True,
        description="Every record has an id, and no two share one.",
    ),
    Check(
        name="footprints", stage=NORMALIZED, blocking=True,
        description="Footprints are valid, on Earth and inside their bbox. One off the Earth blocks; a missing or "
        "self-intersecting one is a warning.",
    ),
    Check(
        name="nothing_rejected", stage=REJECTED, blocking=False,
        description="No record had to be set aside for breaking the record contract.",
    ),
    Check(
        name="headers_complete", stage=BANDS, blocking=True,
        description="Every band of every record has its header. Missing ones are a warning; more of them than "
        "`max_failed` (a share, in the spec) block.",
    ),
    Check(
        name="tile_ranges", stage=BANDS, blocking=True,
        description="Every header has as many tiles as its grid, and each lies inside its file.",
    ),
    Check(
        name="one_row_per_band", stage=BANDS, blocking=True,
        description="The ledger has one row per record and band, and none of a record that is gone.",
    ),
    Check(
        name="published_file", stage=COLLECTION, blocking=False,
        description="The published file is byte for byte what was written, GeoParquet 1.1, and has the contract's "
        "columns.",
    ),
    Check(
        name="counts_agree", stage=COLLECTION, blocking=False,
        description="No stage lost or invented a record or a header.",
    ),
)  # fmt: skip


def checks_of(*stages: str) -> list[Check]:
    """The checks of some stages, in the order of :data:`CHECKS`."""
    return [check for check in CHECKS if check.stage in stages]
