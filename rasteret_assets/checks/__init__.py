"""What must be true of a partition's tables: checked before it is published, and again whenever somebody asks.

The graph shows every check as a Dagster asset check; ``rasteret-assets check`` runs the same ones without Dagster. A
check reads tables and returns a :class:`~rasteret_assets.checks.finding.Finding`; it repairs nothing.
"""

from rasteret_assets.checks.catalog import CHECKS, Check, checks_of
from rasteret_assets.checks.finding import Finding
from rasteret_assets.checks.run import check_partition, check_stage, require_publishable

__all__ = ["CHECKS", "Check", "Finding", "check_partition", "check_stage", "checks_of", "require_publishable"]
