"""Say what must be true of a partition's tables: checked before the partition is published, and again on request.

The graph shows every check as a Dagster asset check; ``rasteret-assets check`` runs the same checks without Dagster. A
check is a function with the decorator :func:`check`: it reads the tables of one partition and returns a
:class:`Finding`. It repairs nothing.

Every module of this folder is imported here, so that a new module with a check in it needs no entry in a list.
"""

import pkgutil
from importlib import import_module

from rasteret_assets.checks._evaluate import (
    check_partition,
    check_stage,
    check_table,
    publication_errors,
    require_publishable,
)
from rasteret_assets.checks.finding import Finding
from rasteret_assets.checks.registry import Check, Partition, StageTable, check, checks_of

__all__ = [
    "Check",
    "Finding",
    "Partition",
    "StageTable",
    "check",
    "check_partition",
    "check_stage",
    "check_table",
    "checks_of",
    "publication_errors",
    "require_publishable",
]

for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
