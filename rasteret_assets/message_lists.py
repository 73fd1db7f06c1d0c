"""How messages list many things: the first few by name, and how many more there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from rasteret_assets.errors import RasteretAssetsError

#: Failures, and hosts, that one message names.
_LISTED: Final = 20
_LISTED_HOSTS: Final = 5


def failed_parts(failures: Sequence[RasteretAssetsError]) -> str:
    """Say how many parts of a read failed, of which class and at which hosts."""
    kinds = Counter(failure.error_class for failure in failures)
    hrefs = [href for failure in failures if (href := getattr(failure, "href", ""))]
    hosts = Counter(urlsplit(href).netloc or "local files" for href in hrefs)
    counts = ", ".join(f"{count} {name}" for name, count in kinds.most_common())
    where = ", ".join(f"{name} {count}" for name, count in hosts.most_common(_LISTED_HOSTS))
    more = f" and {len(hosts) - _LISTED_HOSTS} other hosts" if len(hosts) > _LISTED_HOSTS else ""
    return f"{len(failures)} parts of this read failed ({counts}{f'; {where}{more}' if where else ''})"


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 file``, ``2 files``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(names: Sequence[object], most: int = 3) -> str:
    """Return the first few of many names, and how many more there are, as a message lists them."""
    shown = ", ".join(str(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def list_failures(failures: Sequence[RasteretAssetsError], where: str = "") -> str:
    """Return the first failures, each on a line of its own, and how many there are besides.

    Args:
        failures: all of them.
        where: a few words on where the others are found.
    """
    listed = "".join(f"\n  {describe(failure)}" for failure in failures[:_LISTED])
    more = f"\n  and {len(failures) - _LISTED} more{where}" if len(failures) > _LISTED else ""
    return listed + more


def describe(error: RasteretAssetsError) -> str:
    """Return an error in one line, with its notes, which say for which record and file it was raised."""
    return "; ".join([str(error), *getattr(error, "__notes__", ())])
