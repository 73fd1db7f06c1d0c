"""The outcome of a check on one partition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check found in one partition.

    Args:
        passed: whether there is nothing to mend.
        error: whether what was found makes the table wrong; otherwise it is only worth a look.
        message: one sentence; where the check did not pass, what is wrong and what helps.
        numbers: what was counted, by name.
        rows: what was found by kind, as the rows of a table; empty where the message says it all.
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
