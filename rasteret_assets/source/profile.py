"""Hold what a source was found to have: its partitions and their versions, its assets, bands, repeated ids and files.

Every stage of every partition goes by the same profile, so that all partitions share one schema and a record is judged
the same whichever partition is built first. A profile is made by :mod:`~rasteret_assets.source.profiling`, and kept by
:mod:`~rasteret_assets.source.stored`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rasteret_assets.columns.hashing import RowsDigest
from rasteret_assets.schema import PARSER_VERSION, PUBLISH_VERSION, RECORD_VERSION
from rasteret_assets.source.overlap import RowFacts
from rasteret_assets.spec import CollectionSpec

#: Raised whenever a profile of the same rows would come out differently; stored profiles are then made anew.
PROFILE_VERSION = 5


@dataclass(frozen=True, kw_only=True)
class PartitionProfile:
    """Says of one partition of a source how many rows it has, and in which version.

    Args:
        rows: number of rows.
        version: hexadecimal :class:`~rasteret_assets.columns.hashing.RowsDigest` of the rows in one file, or in all
            files (where the version also covers the ids that other partitions share). It changes with any row, but not
            with the order of rows.
    """

    rows: int
    version: str


@dataclass(frozen=True, kw_only=True)
class PartProfile:
    """Says what one file of a source holds.

    Args:
        partitions: its rows by partition key.
        asset_names: assets that its rows have.
        rasters: names of the assets that hold rasters.
    """

    partitions: dict[str, PartitionProfile] = field(default_factory=dict)
    asset_names: tuple[str, ...] = ()
    rasters: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PartProfile:
        """Return the profile that a document of ``dataclasses.asdict`` describes."""
        return cls(
            partitions=_partitions(document["partitions"]),
            asset_names=tuple(document["asset_names"]),
            rasters=tuple(document["rasters"]),
        )


@dataclass(frozen=True, kw_only=True)
class SourceProfile:
    """Says what a source holds.

    Args:
        fingerprint: version of the source's files, and of the spec under which they were read.
        columns: hash of the names and types of its columns, over all files, and of the CRS of its footprints.
        partitions: by partition key; a source without rows has one empty partition, so that it can be published.
        asset_names: fields of the normalized ``assets`` struct.
        bands: bands to enrich, in order; empty where nothing is to be enriched.
        conflicting_ids: ids that several rows with different content carry; none of these rows is published.
        repeats_ids: whether any id occurs more than once (or, by a clash of hashes, seems to).
        parts: by version of the source's file.
        remote: whether the source lies on another machine.
        superseded: ids whose rows in a partition are older than their row in another, by partition. Such rows are not
            published, and do not count in the version of their partition.
    """

    fingerprint: str
    columns: str = ""
    partitions: dict[str, PartitionProfile] = field(default_factory=dict)
    asset_names: tuple[str, ...] = ()
    bands: tuple[str, ...] = ()
    conflicting_ids: tuple[str, ...] = ()
    repeats_ids: bool = True
    parts: dict[str, PartProfile] = field(default_factory=dict)
    remote: bool = False
    superseded: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a document for :meth:`from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SourceProfile:
        """Return the profile that a document of :meth:`to_json` describes."""
        lists = {name: tuple(document[name]) for name in ("asset_names", "bands", "conflicting_ids")}
        parts = {version: PartProfile.from_json(part) for version, part in document.get("parts", {}).items()}
        return cls(
            fingerprint=document["fingerprint"], columns=document.get("columns", ""),
            partitions=_partitions(document["partitions"]), parts=parts,
            repeats_ids=document.get("repeats_ids", True), remote=bool(document.get("remote")), **lists,
            superseded={key: tuple(ids) for key, ids in document.get("superseded", {}).items()},
        )  # fmt: skip

    @property
    def layout(self) -> str:
        """Hash of what all partitions share; when the hash changes, every partition is published anew.

        A column that a new file adds, or whose type a new file widens, changes the hash, because readers that take a
        folder for one table need one schema in all files.
        """
        code = (PARSER_VERSION, RECORD_VERSION, PUBLISH_VERSION)
        shared = repr((self.columns, self.asset_names, self.bands, code))
        return hashlib.blake2b(shared.encode(), digest_size=8).hexdigest()

    def version(self, key: str, spec: CollectionSpec) -> str:
        """Return the version from which a published partition must have been built to be current."""
        return f"{self.partitions[key].version}-{spec.content_hash}-{self.layout}"


def _partitions(document: Mapping[str, Any]) -> dict[str, PartitionProfile]:
    return {key: PartitionProfile(**value) for key, value in document.items()}


class FoundPart(NamedTuple):
    """Holds the profile of one file of a source, and the hashes of its rows.

    Args:
        profile: of the file.
        ids: a 64-bit hash of the id of each row.
        facts: of the same rows, as :data:`~rasteret_assets.source.overlap.ROW_FACTS`, where files may overlap and the
            facts are not stored.
    """

    profile: PartProfile
    ids: npt.NDArray[np.uint64]
    facts: RowFacts | None = None


class ProfilingResult(NamedTuple):
    """Holds the profile of a source, and what was found in each file, by the file's version."""

    profile: SourceProfile
    found: dict[str, FoundPart]


def profile_fingerprint(source_fingerprint: str, spec: CollectionSpec) -> str:
    """Return what the profile of a source under a spec depends on: the versions of its files, and the spec."""
    return f"{PROFILE_VERSION}-{source_fingerprint}-{spec.content_hash}"


def profiles_of(digests: Mapping[str, RowsDigest]) -> dict[str, PartitionProfile]:
    """Return the profiles of partitions by the digests of their rows, in order of their keys."""
    return {key: PartitionProfile(rows=found.rows, version=found.hexdigest()) for key, found in sorted(digests.items())}
