"""Refuse addresses by which a stranger's record table would reach into this machine.

The author of a table decides which files the machine opens that builds the table. A table from another machine may
therefore not name local files, and no table may name services at link-local addresses, which hand out a machine's
credentials. A spec may allow both.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.error_classes import ErrorClass
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.addresses.link_local import is_link_local
from rasteret_assets.storage.addresses.urls import host, scheme
from rasteret_assets.storage.local import local_path


class Refusal(NamedTuple):
    """The reason for which an address is not asked.

    Args:
        error_class: as in the ledger.
        error: message, which tells nothing about the content at the address.
    """

    error_class: ErrorClass
    error: str


LOCAL_FILE: Final = Refusal(
    ErrorClass.LOCAL_FILE_REFUSED,
    "the table was read from another machine and may not name local files; local_files: allow in the spec lets it",
)
LINK_LOCAL: Final = Refusal(
    ErrorClass.LINK_LOCAL_REFUSED,
    "the address is that of a service of this machine or its network, such as a cloud's metadata; "
    "link_local: allow in the spec lets tables name it",
)

_LOCAL: Final = re.compile(r"(?i)^(/|~|file:)")


@dataclass(frozen=True, kw_only=True)
class Places:
    """The addresses that a table may name.

    Args:
        local_files: whether the table may name files of this machine.
        link_local: whether the table may name link-local hosts.
        folders: local folders that are allowed in any case, because rewrites of the spec lead there.
    """

    local_files: bool = True
    link_local: bool = True
    folders: tuple[str, ...] = ()

    @classmethod
    def of(cls, spec: CollectionSpec, *, remote: bool) -> Places:
        """Return the addresses that a table may name under a spec.

        Args:
            spec: of the collection.
            remote: whether the table lies on another machine.
        """
        targets = (target for target in spec.rewrites.values() if _LOCAL.match(target) and _is_local(target))
        return cls(
            local_files=not remote or spec.local_files == "allow",
            link_local=spec.link_local == "allow",
            folders=tuple(map(_plain_path, targets)),
        )

    def refused(self, hrefs: pa.Array) -> list[tuple[Refusal, npt.NDArray[np.bool_]]]:
        """Return for each kind of refusal the mask of the addresses in a string array that are refused, ``bool[N]``."""
        kinds: list[tuple[Refusal, npt.NDArray[np.bool_]]] = []
        if not self.local_files:
            suspect = pc.match_substring_regex(hrefs, _LOCAL.pattern).fill_null(fill_value=False)
            mask = np.array(suspect, bool)
            mask[mask] = [self._is_refused_file(href) for href in hrefs.filter(suspect).to_pylist()]
            kinds.append((LOCAL_FILE, mask))
        if not self.link_local:
            # By distinct host, because the addresses of a table have few.
            origins = pc.struct_field(pc.extract_regex(hrefs, r"^(?P<o>.*?//[^/?#]*)"), "o").dictionary_encode()
            is_local = np.array([is_link_local(host(origin)) for origin in origins.dictionary.to_pylist()] + [False])
            kinds.append((LINK_LOCAL, is_local[np.asarray(origins.indices.fill_null(len(is_local) - 1))]))
        return kinds

    def _is_refused_file(self, href: str) -> bool:
        return _is_local(href) and not any(map(_plain_path(href).startswith, self.folders))


def _is_local(href: str) -> bool:
    return scheme(href) in {"", "file"}


def _plain_path(href: str) -> str:
    """Return the path of a local file without ``..``, so that a path that leads out of a folder is not below it."""
    try:
        path = os.path.abspath(local_path(href))  # noqa: PTH100  (pathlib would ask the disk)
    except (ValueError, RuntimeError):  # not an address, or ``~user`` of a user that does not exist
        return ""
    return f"{path}/" if href.endswith("/") and path != "/" else path
