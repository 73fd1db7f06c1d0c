"""Open the addresses of a record table, by the headers and tokens that open its rasters.

Addresses stay unsigned, as the user wrote them, in profiles, versions and messages; they are signed when a file is
read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.addresses.urls import scheme
from rasteret_assets.storage.create import AutoBackend, create_backend
from rasteret_assets.storage.http.http_backend import HttpBackend
from rasteret_assets.storage.object_stores.objects import OBJECT_SCHEMES, ObjectStoreBackend


@dataclass(frozen=True, kw_only=True)
class TableAccess:
    """Opens the addresses of a record table.

    Args:
        filesystem: pyarrow or fsspec filesystem of the paths, a function that returns that of a path, or None.
        backend: whose headers, proxy, tokens and settings of buckets open the table.
        link_local: whether link-local hosts may be asked.
        is_own: whether the table lies in the workspace, where no token is needed.
    """

    filesystem: Any = None
    backend: AutoBackend = field(default_factory=create_backend)
    link_local: bool = False
    is_own: bool = False

    @classmethod
    def of(cls, spec: CollectionSpec, filesystem: Any = None, backend: object = None) -> TableAccess:
        """Return the access to a collection's record table.

        Args:
            spec: of the collection; its ``credentials`` and ``cloud_config`` count if there is no ``backend``.
            filesystem: as for the class.
            backend: reads the rasters; a backend of another package opens no tables, and is replaced by a default one.

        Raises:
            SpecError: if the credentials name no function.
        """
        if not isinstance(backend, AutoBackend):
            backend = create_backend(cloud_config=spec.cloud, credentials=spec.credentials)
        return cls(
            filesystem=filesystem, backend=backend, link_local=spec.link_local == "allow",
            is_own=spec.harvest is not None,
        )  # fmt: skip

    def http(self) -> HttpBackend:
        """Return a new client for HTTP addresses, whose connections are those of the table alone."""
        return self.backend.new_http(link_local=self.link_local)

    def bucket_client(self, path: str) -> ObjectStoreBackend | None:
        """Return the client that reads a path in a bucket; None where the filesystem of the path reads it.

        A filesystem object that a user gave counts over tokens. A function, such as Dagster's resources give, does not,
        because it signs with the credentials of the environment.
        """
        given = self.filesystem is not None and not callable(self.filesystem)
        if given or self.is_own or scheme(path) not in OBJECT_SCHEMES:
            return None
        return self.backend.objects if self.backend.objects.opens(path) else None
