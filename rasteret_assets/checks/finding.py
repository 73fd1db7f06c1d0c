"""The outcome of a check on one partition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found in one partition.

    Args:
        passed: whether the table is as the check demands.
        error: whether a table that does not pass is wrong; otherwise the finding is a warning.
        message: one sentence; where the check did not pass, what is wrong and what helps.
        numbers: counts that the message does not have room for, by name.
        rows: the problems by kind, as the rows of a table; empty where the message says everything.
        check: name of the check, which the decorator of the check fills in.
    """

    passed: bool
    error: bool = True
    message: str
    numbers: Mapping[str, int | float | str] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Any]] = ()
    check: str = ""

    @property
    def verdict(self) -> str:
        """``ok``, ``warning`` or ``error``."""
        if self.passed:
            return "ok"
        return "error" if self.error else "warning"
