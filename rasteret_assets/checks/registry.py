"""Register checks: a function becomes a check by the decorator :func:`check`.

    @check(stage="normalized_records", columns=["eo:cloud_cover"])
    def cloud_cover_is_a_percentage(partition: Partition) -> Finding:
        \"\"\"Cloud cover lies between 0 and 100.\"\"\"
        covers = partition.table.rows["eo:cloud_cover"]
        wrong = pc.sum(pc.or_(pc.less(covers, 0), pc.greater(covers, 100))).as_py() or 0
        return Finding(passed=not wrong, message=f"{wrong} records with another cloud cover; correct the source")

The name of the function is the name of the check. A module with checks of your own has to be imported before the checks
are used: by the module of the code location in the graph, and with ``-f`` or ``-m`` on the command line.
``docs/extend.md`` has further examples.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any, Final, TypeAlias

import pyarrow as pa

from rasteret_assets.checks.finding import Finding
from rasteret_assets.schema import BANDS, COLLECTION, NORMALIZED, RAW, REJECTED
from rasteret_assets.spec import CollectionSpec

#: Tables that a check can be about, in the order in which data flows.
CHECKED: Final = (NORMALIZED, REJECTED, BANDS, COLLECTION)
#: Tables that a check can read.
READABLE: Final = (RAW, *CHECKED)

#: Columns that a check reads: their names, or a function that finds them in the schema of the table.
Columns: TypeAlias = Sequence[str] | Callable[[pa.Schema], Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class StageTable:
    """A table of one partition, with the columns that one check reads.

    Args:
        path: of its file.
        schema: all of its columns.
        count: number of its rows.
        rows: the columns that the check names; with ``of_batch`` all batches that it returned.
        digest: of the bytes of the published file; None for the other tables.
    """

    path: str
    schema: pa.Schema
    count: int
    rows: pa.Table = field(repr=False)
    digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class Partition:
    """One partition of a collection, with the tables that one check reads.

    Args:
        key: such as ``2024-05`` or ``undated``.
        spec: of the collection.
        table: the table that the check is about.
        also: the other tables that the check reads, by stage; a table that does not exist is left out.
        state: state of the published partition, for checks of ``collection``; otherwise empty.
    """

    key: str
    spec: CollectionSpec
    table: StageTable
    also: Mapping[str, StageTable] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)


CheckFunction: TypeAlias = Callable[[Partition], Finding]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check.

    Args:
        name: unique within its stage.
        stage: table that it is about.
        blocking: whether an error keeps the partition from being published.
        description: what must be true, in a sentence.
        columns: that the check reads, by stage.
        of_batch: reduces each batch of the table as soon as the batch is read; None where the columns are small.
        evaluate: returns the finding in a partition.
    """

    name: str
    stage: str
    blocking: bool
    description: str
    columns: Mapping[str, Columns]
    of_batch: Callable[[pa.RecordBatch], pa.RecordBatch] | None
    evaluate: CheckFunction


_CHECKS: Final[dict[tuple[str, str], Check]] = {}


def check(
    *,
    stage: str,
    columns: Columns = (),
    also: Mapping[str, Columns] | None = None,
    of_batch: Callable[[pa.RecordBatch], pa.RecordBatch] | None = None,
    blocking: bool = False,
    description: str = "",
) -> Callable[[CheckFunction], CheckFunction]:
    """Make a check of a function that takes a partition and returns a finding.

    Args:
        stage: table that the check is about: ``normalized_records``, ``rejected_records``, ``band_metadata`` or
            ``collection``. In ``band_metadata`` the column ``header`` holds the headers.
        columns: of that table, which the check reads. A check whose columns are missing, or of another type than the
            contract says, fails without being called.
        also: columns of further tables, by stage; ``raw_records`` too.
        of_batch: returns a small batch for each batch of the named columns. Without ``of_batch`` the named
            columns of all rows are in memory at once, which is too much for geometries and headers.
        blocking: whether an error keeps the partition from being published.
        description: what must be true; the first sentence of the docstring when omitted.

    Raises:
        ValueError: if a stage does not exist, the stage has a check of this name, or nothing describes the check.
    """
    if stage not in CHECKED:
        raise ValueError(f"stage={stage!r} has no checks: write one of {', '.join(CHECKED)}")
    if unknown := sorted({*(also or {})} - set(READABLE) | {*(also or {})} & {stage}):
        others = ", ".join(name for name in READABLE if name != stage)
        raise ValueError(f"also= names {', '.join(unknown)}, which is not another table: write of {others}")
    if blocking and stage == COLLECTION:
        raise ValueError("a check of collection cannot block: it reads what is published already")

    def decorate(function: CheckFunction) -> CheckFunction:
        name = function.__name__
        said = description or _first_sentence(inspect.getdoc(function) or "")
        if not said:
            raise ValueError(f"check {name} says nothing about itself: write a docstring, or description=")
        if (stage, name) in _CHECKS:
            raise ValueError(f"{stage} has a check {name} already: call the function something else")

        @wraps(function)
        def evaluate(partition: Partition) -> Finding:
            return replace(function(partition), check=name)

        # Whether the partition exists, because a partition with no rejected records has no file of them either.
        presence = {NORMALIZED: ()} if stage == REJECTED else {}
        _CHECKS[stage, name] = Check(
            name=name, stage=stage, blocking=blocking, description=said, of_batch=of_batch, evaluate=evaluate,
            columns={**presence, stage: columns, **(also or {})},
        )  # fmt: skip
        return evaluate

    return decorate


def checks_of(*stages: str) -> list[Check]:
    """Return the checks of some stages, in the order in which data flows.

    Raises:
        ValueError: if a stage does not exist.
    """
    if unknown := [stage for stage in stages if stage not in READABLE]:
        raise ValueError(f"no stage is called {', '.join(unknown)}: write one of {', '.join(READABLE)}")
    return [found for stage in CHECKED if stage in stages for found in _CHECKS.values() if found.stage == stage]


def _first_sentence(text: str) -> str:
    paragraph = " ".join(text.partition("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s", paragraph, maxsplit=1)[0]
