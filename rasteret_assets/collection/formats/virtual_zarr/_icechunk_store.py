"""Open or make the Icechunk repository that a call writes to, and name the prefixes under which files lie."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats.virtual_zarr._icechunk_files import container_of
from rasteret_assets.errors import CollectionError, MissingExtraError, SpecError
from rasteret_assets.storage.addresses.urls import scheme
from rasteret_assets.storage.local import local_path

_BRANCH: Final = "main"
#: Prefix of the branch of a call that has not ended.
_OWN_BRANCHES: Final = "rasteret-assets-"
#: References in a manifest at most, because Icechunk writes the whole manifest again when one is added.
_REFERENCES: Final = 8192


def require_icechunk() -> Any:
    """Return the package.

    Raises:
        MissingExtraError: if it is not installed, or is of a version that lacks what is needed.
    """
    if sys.hexversion < 0x30C0000:
        raise MissingExtraError(
            f"to_icechunk needs Icechunk 2, which needs Python 3.12 or later; this is Python {sys.version.split()[0]}. "
            "Make an environment of a later Python, and pip install 'rasteret-assets[icechunk]' there"
        )
    icechunk = optional("icechunk", extra="icechunk", purpose="to_icechunk")
    if not hasattr(icechunk.IcechunkStore, "set_virtual_refs_arr"):
        raise MissingExtraError(
            f"to_icechunk needs Icechunk 2, and {icechunk.__version__} is installed: "
            "pip install 'rasteret-assets[icechunk]'"
        )
    return icechunk


class Repository:
    """A repository that one call writes to, from one snapshot on.

    Args:
        icechunk: the package.
        storage: where it is; None where ``opened`` is given.
        opened: the repository; None where it does not exist yet.
    """

    def __init__(self, icechunk: Any, storage: Any, opened: Any) -> None:
        self._icechunk = icechunk
        self._storage = storage
        self._opened = opened
        # Read and written in one session, so that a commit of another writer in between is noticed.
        self._session: Any = None if opened is None else opened.writable_session(_BRANCH)
        self._base: str | None = None if self._session is None else self._session.snapshot_id
        self._own_branch: str | None = None

    @property
    def containers(self) -> set[str]:
        """Return the prefixes under which the repository reads files."""
        return set() if self._opened is None else set(self._opened.config.virtual_chunk_containers or {})

    @property
    def store(self) -> Any:
        """Zarr's store of what the repository holds and of what was written to it; None where it does not exist."""
        return None if self._session is None else self._session.store

    def prepare(self, prefixes: Iterable[str], *, tiles: int, is_new: bool) -> None:
        """Make the repository if it does not exist, and let it read files under some prefixes.

        Args:
            prefixes: of addresses; a prefix that a container of the repository covers already gets no other one.
            tiles: of a typical record, which decide how many records share a manifest.
            is_new: whether the repository holds no records yet, so that this may still be decided.

        Raises:
            CollectionError: if somebody else committed meanwhile.
        """
        icechunk = self._icechunk
        config = icechunk.RepositoryConfig.default() if self._opened is None else self._opened.config
        there = self.containers
        lacking = [prefix for prefix in prefixes if not any(prefix.startswith(one) for one in there)]
        for prefix in lacking:
            config.set_virtual_chunk_container(container_of(icechunk, prefix))
        is_split = is_new and config.manifest is None
        if is_split:
            # Because every append would write one manifest of all earlier records again.
            along_time = {icechunk.ManifestSplitDimCondition.DimensionName("time"): max(1, _REFERENCES // tiles)}
            splitting = icechunk.ManifestSplittingConfig.from_dict(
                {icechunk.ManifestSplitCondition.AnyArray(): along_time}
            )
            config.manifest = icechunk.ManifestConfig(splitting=splitting)
        if self._opened is None:
            self._opened = icechunk.Repository.create(self._storage, config=config)
        elif lacking or is_split:
            self._opened = self._opened.reopen(config=config)
            self._opened.save_config()
        else:
            return
        self._session = self._opened.writable_session(_BRANCH)
        if self._base not in {None, self._session.snapshot_id}:
            raise _conflict()
        self._base = self._session.snapshot_id

    def set_aside(self, message: str) -> None:
        """Write what the session holds in memory into a snapshot that no reader sees, and go on from there.

        Sessions hold all their references in memory until then. A branch of a name of its own keeps the snapshot.
        """
        if self._own_branch is None:
            snapshot = self._session.flush(message)
            self._own_branch = f"{_OWN_BRANCHES}{uuid.uuid4().hex}"
            self._opened.create_branch(self._own_branch, snapshot)
        else:
            self._session.amend(message)
        self._session = self._opened.writable_session(self._own_branch)

    def commit(self, message: str) -> str:
        """Publish everything that the call wrote, at once; return the id of the snapshot.

        Raises:
            CollectionError: if somebody else committed meanwhile.
        """
        try:
            if self._own_branch is None:
                return str(self._session.commit(message))
            # One snapshot replaces those of earlier flushes, so that a call is one commit.
            snapshot = str(self._session.amend(message))
        except self._icechunk.ConflictError as error:
            raise _conflict() from error
        try:
            self._opened.reset_branch(_BRANCH, snapshot, from_snapshot_id=self._base)
        except self._icechunk.IcechunkError as error:
            if self._opened.lookup_branch(_BRANCH) == self._base:
                raise
            raise _conflict() from error
        return snapshot

    def close(self) -> None:
        """Delete the branch of the call, where it needed one."""
        if self._own_branch is not None:
            self._opened.delete_branch(self._own_branch)
            self._own_branch = None


def _conflict() -> CollectionError:
    return CollectionError(
        "the Icechunk repository was changed by somebody else meanwhile, and nothing was written: try again"
    )


def open_repository(icechunk: Any, store: Any) -> Repository:
    """Open a repository, or prepare to make it where it does not exist.

    Args:
        icechunk: the package.
        store: a path, an address of ``s3://`` or ``gs://``, a storage or a repository of Icechunk's.

    Raises:
        SpecError: if it is none of these.
    """
    if isinstance(store, icechunk.Repository):
        return Repository(icechunk, None, store)
    storage = store if isinstance(store, icechunk.Storage) else _storage(icechunk, store)
    opened = icechunk.Repository.open(storage) if icechunk.Repository.exists(storage) else None
    return Repository(icechunk, storage, opened)


def _storage(icechunk: Any, store: Any) -> Any:
    if isinstance(store, str | Path):
        text = str(store)
        bucket, _, prefix = text.partition("://")[2].partition("/")
        if scheme(text) in {"", "file"}:
            return icechunk.local_filesystem_storage(str(local_path(text).absolute()))
        if scheme(text) == "s3" and bucket:
            return icechunk.s3_storage(bucket=bucket, prefix=prefix, from_env=True)
        if scheme(text) == "gs" and bucket:
            return icechunk.gcs_storage(bucket=bucket, prefix=prefix, from_env=True)
    raise SpecError(
        f"store={store!r} cannot hold an Icechunk repository: give a folder, s3://bucket/prefix, gs://bucket/prefix "
        "or a Storage or Repository of Icechunk's"
    )
