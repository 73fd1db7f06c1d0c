"""What must be true of a partition's tables: checked before it is published, and again whenever somebody asks.

The graph shows every check as a Dagster asset check; ``rasteret-assets check`` runs the same ones without Dagster. A
check is a function with the decorator :func:`check`; it looks at the tables of one partition and returns a
:class:`Finding`. It repairs nothing.
"""

from rasteret_assets.checks import headers, published, records  # noqa: F401  (for the checks in them)
from rasteret_assets.checks.finding import Finding
from rasteret_assets.checks.registry import Check, Partition, StageTable, check, checks_of
from rasteret_assets.checks.run import check_partition, check_stage, publication_errors, require_publishable

__all__ = [
    "Check",
    "Finding",
    "Partition",
    "StageTable",
    "check",
    "check_partition",
    "check_stage",
    "checks_of",
    "publication_errors",
    "require_publishable",
]
