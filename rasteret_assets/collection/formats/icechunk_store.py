"""The Icechunk repository that is written to: opened or made, and told under which prefixes files lie."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from rasteret_assets.collection.extras import optional
from rasteret_assets.collection.formats.icechunk_files import container_of
from rasteret_assets.errors import CollectionError, MissingExtraError, SpecError
from rasteret_assets.storage.local import local_path
from rasteret_assets.storage.urls import scheme

_BRANCH: Final = "main"
#: References of a manifest, which Icechunk writes anew as a whole when one of them is added.
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
    """A repository, and what it knows of files.

    Args:
        icechunk: the package.
        storage: where it is; None where ``opened`` is given.
        opened: the repository; None where there is none yet.
    """

    def __init__(self, icechunk: Any, storage: Any, opened: Any) -> None:
        self._icechunk = icechunk
        self._storage = storage
        self._opened = opened

    @property
    def containers(self) -> set[str]:
        """Prefixes under which the repository reads files."""
        return set() if self._opened is None else set(self._opened.config.virtual_chunk_containers or {})

    def readonly_store(self) -> Any:
        """Return what the repository holds, as a store of Zarr's; None where it does not exist."""
        return None if self._opened is None else self._opened.readonly_session(_BRANCH).store

    def prepare(self, prefixes: Iterable[str], *, tiles: int, is_new: bool) -> None:
        """Make the repository if it does not exist, and let it read files under some prefixes.

        Args:
            prefixes: of addresses; those that a container of the repository's own covers are left to it.
            tiles: of a typical record, which decide how many records share a manifest.
            is_new: whether the repository holds no records yet, so that this may still be decided.
        """
        icechunk = self._icechunk
        config = icechunk.RepositoryConfig.default() if self._opened is None else self._opened.config
        there = self.containers
        lacking = [prefix for prefix in prefixes if not any(prefix.startswith(one) for one in there)]
        for prefix in lacking:
            config.set_virtual_chunk_container(container_of(icechunk, prefix))
        is_split = is_new and config.manifest is None
        if is_split:
            # Otherwise every append would write the manifest of all earlier records anew.
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

    def writable_session(self) -> Any:
        """Return a session whose changes a commit publishes."""
        return self._opened.writable_session(_BRANCH)

    def commit(self, session: Any, message: str) -> str:
        """Publish the changes of a session, all at once; return the id of the snapshot.

        Raises:
            CollectionError: if somebody else committed meanwhile.
        """
        try:
            return str(session.commit(message))
        except self._icechunk.ConflictError as error:
            raise CollectionError(
                "the Icechunk repository was changed by somebody else meanwhile, and nothing was written: try again"
            ) from error


def open_repository(icechunk: Any, store: Any) -> Repository:
    """Open a repository where there is one.

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
