"""Resources: what a deployment configures. Each returns a plain object of the library, which never sees Dagster.

Credentials belong into ``dg.EnvVar``: Dagster shows the values of resource fields in its UI, but of an ``EnvVar`` only
the name. Where none are given, boto3's usual chain applies (environment, profile, instance role), and so do AWS' usual
variables for region and endpoint, which lead to any S3-compatible store.

https://docs.dagster.io/guides/build/external-resources
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import dagster as dg
import pyarrow.fs as pafs
from pydantic import Field

from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration.s3 import S3Settings
from rasteret_assets.source.open import Source
from rasteret_assets.source.stored import open_known
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.create import create_backend
from rasteret_assets.storage.urls import scheme
from rasteret_assets.storage.workspace import Workspace

#: Keys of the resources, under names that a project's own resources do not have: Dagster knows a key once in a code
#: location. The functions of assets, checks, sensors and schedules have parameters of these names.
FILESYSTEM: Final = "rasteret_filesystem"
BACKEND: Final = "rasteret_backend"
OPTIONS: Final = "rasteret_options"

_SECRET: dict[str, Any] = {"dagster__is_secret": True}


class FilesystemResource(S3Settings):
    """Where record tables are read and collections are written: local paths, and URIs of any scheme pyarrow knows.

    The fields say how ``s3://`` paths are reached; nothing need be set for the rest.
    """

    def filesystem(self, path: str) -> pafs.FileSystem | None:
        """Return the filesystem of an ``s3://`` path; None for other paths, which pyarrow resolves by itself.

        A URI that carries credentials or options itself (``s3://bucket/key?region=...``) is left to pyarrow.
        """
        parts = urlsplit(path)
        if scheme(path) not in {"s3", "s3a"} or parts.query or "@" in parts.netloc:
            return None
        return self.arrow_filesystem(parts.netloc)

    def open_source(self, spec: CollectionSpec, *, trust_stored: bool = True) -> Source:
        """Open the record table of a collection; the footers of files that did not change are not read.

        Args:
            spec: of the collection.
            trust_stored: whether what the workspace keeps of these footers counts.

        Raises:
            SourceError: if the table does not exist, or is not Parquet.
            SpecError: if the spec names no place for the workspace.
        """
        return open_known(self.open_workspace(spec), spec.path, spec, self.filesystem, trust_stored=trust_stored)

    def open_workspace(self, spec: CollectionSpec) -> Workspace:
        """Return the workspace of a collection: where it and its stages lie.

        Raises:
            SpecError: if the spec names no place.
        """
        path = spec.published_path
        if path is None:
            raise SpecError("a collection of the graph needs a name: write name: in its YAML file")
        return Workspace.of(spec, self.filesystem(path))


class StorageBackendResource(S3Settings):
    """Where file headers are read from: local files, HTTP(S) and object stores, by the scheme of each href.

    The fields of S3 say how the buckets are reached that hrefs lead to, which need not be where the collection lies.
    """

    requester_pays: bool = Field(
        default=False, description="Declare on every S3 request that the requester pays, as some public buckets demand."
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="Headers sent with every HTTP request; no secrets, Dagster shows them."
    )
    host_headers: dict[str, dict[str, str]] = Field(
        default_factory=dict, repr=False, json_schema_extra=_SECRET,
        description="Headers by host, such as {'data.example': {'X-Api-Key': EnvVar('KEY')}}: sent to that host only, "
        "and counting over those for all. A host may have its port: 'data.example:8443'.",
    )  # fmt: skip
    authorization: str | None = Field(
        default=None, repr=False, json_schema_extra=_SECRET,
        description="Authorization header of every HTTP request, such as EnvVar of 'Bearer ...'.",
    )  # fmt: skip

    def backend(self, spec: CollectionSpec) -> StorageBackend:
        """Return the backend for a collection's hrefs, with what it says of its buckets and credentials."""
        config = {**self.obstore_config(), **({"request_payer": True} if self.requester_pays else {})}
        headers: dict[str, str | Mapping[str, str]] = {**self.headers, **self.host_headers}
        if self.authorization:
            headers["Authorization"] = self.authorization
        return create_backend(
            cloud_config=spec.cloud, default_s3_config=config, headers=headers, link_local=spec.link_local,
            credentials=spec.credentials,
        )  # fmt: skip


class BuildOptions(dg.ConfigurableResource[Any]):
    """Choices of a single run, made in the launchpad or in run config."""

    force: bool = Field(
        default=False, description="Fetch every header again, also those whose last outcome still holds."
    )
    revalidate: bool = Field(
        default=False,
        description="Ask for every header that is reused whether its file has changed, and read it again if it has.",
    )


#: Made once: Dagster merges definitions that have the same resource under a key, but not an equal one.
_DEFAULT_RESOURCES: Final[dict[str, Any]] = {
    FILESYSTEM: FilesystemResource(),
    BACKEND: StorageBackendResource(),
    OPTIONS: BuildOptions.configure_at_launch(),
}


def default_resources() -> dict[str, Any]:
    """Return the resources of a collection's assets, by key: local files, credentials of the environment or none.

    Each call returns the same resources, so that the definitions of several collections and components can be merged.
    """
    return dict(_DEFAULT_RESOURCES)
