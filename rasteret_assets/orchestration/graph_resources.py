"""Define the resources that a deployment configures; each returns an object of the library, which needs no Dagster.

Give credentials as ``dg.EnvVar``, because Dagster's UI shows the values of resource fields, but of an ``EnvVar`` only
the name. Where fields are empty, boto3 finds credentials as usual (environment, profile, instance role), and the
environment variables of any S3 client count: ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_REGION``,
``AWS_DEFAULT_REGION``. Credentials that expire are renewed during a stage, by pyarrow's SDK and by boto3.

https://docs.dagster.io/guides/build/external-resources
https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
"""

import logging
import os
from collections.abc import Mapping
from typing import Any, Final, Self
from urllib.parse import urlsplit

import boto3
import dagster as dg
import pyarrow.fs as pafs
from botocore.credentials import RefreshableCredentials
from dagster_aws.s3 import S3Resource
from pydantic import Field

from rasteret_assets.errors import SpecError
from rasteret_assets.source.open import Source
from rasteret_assets.source.stored import open_record_table
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.addresses.urls import scheme
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.create import create_backend
from rasteret_assets.storage.object_stores.s3_stores import s3_endpoint_of_environment
from rasteret_assets.storage.workspace import Workspace

#: Keys of the resources, under names that a project's own resources do not have: Dagster knows a key once in a code
#: location. The functions of assets, checks, sensors and schedules have parameters of these names.
FILESYSTEM: Final = "rasteret_filesystem"
BACKEND: Final = "rasteret_backend"
OPTIONS: Final = "rasteret_options"

_SECRET: dict[str, Any] = {"dagster__is_secret": True}

_log = logging.getLogger(__name__)

# botocore's names of the methods by which pyarrow's SDK finds credentials too, and renews credentials that expire.
_RENEWED_BY_PYARROW: Final = frozenset(
    {"env", "assume-role-with-web-identity", "custom-process", "container-role", "iam-role"}
)


class S3Settings(S3Resource):
    """Settings of S3 and of stores with its API, for pyarrow and obstore: dagster-aws' ``S3Resource`` extended."""

    region_name: str | None = Field(
        default=None,
        description="Region of the buckets. If empty: AWS_REGION, AWS_DEFAULT_REGION, else the region that AWS names.",
    )
    endpoint_url: str | None = Field(
        default=None,
        description="URL of an S3-compatible store. If empty: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else AWS.",
    )
    verify: bool | None = Field(
        default=None,
        description="Whether TLS certificates are verified. With false only headers can be read; for an authority of "
        "your own set SSL_CERT_FILE in the environment.",
    )
    aws_access_key_id: str | None = Field(
        default=None, repr=False, json_schema_extra=_SECRET,
        description="AWS access key ID; give it as EnvVar. If empty, boto3 finds credentials as usual.",
    )  # fmt: skip
    aws_secret_access_key: str | None = Field(
        default=None, repr=False, json_schema_extra=_SECRET,
        description="AWS secret access key; give it as EnvVar.",
    )  # fmt: skip
    aws_session_token: str | None = Field(
        default=None, repr=False, json_schema_extra=_SECRET,
        description="AWS session token of temporary credentials; give it as EnvVar.",
    )  # fmt: skip

    def get_object_to_set_on_execution_context(self) -> Self:
        """Return this resource, where dagster-aws returns a boto3 client."""
        return self

    def arrow_filesystem(self, bucket: str) -> pafs.S3FileSystem:
        """Return a pyarrow filesystem with these settings.

        AWS is asked for the region of ``bucket`` only if neither region nor endpoint is set.

        Raises:
            SpecError: if ``verify`` is False, or an unencrypted connection to AWS has no region.
        """
        if self.verify is False:
            raise SpecError(
                "verify=False is not possible for tables, because pyarrow, which reads them, always verifies TLS "
                "certificates: set the environment variable SSL_CERT_FILE to the certificate of the authority"
            )
        options: dict[str, Any] = {
            "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=self.max_attempts),
            "allow_delayed_open": True,  # because writing a small file then takes one request and not three
            **self._arrow_credentials(),
        }
        endpoint, region = self._endpoint(), self._region()
        if endpoint:
            parts = urlsplit(endpoint)
            options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        elif not region:
            region = pafs.resolve_s3_region(bucket)
        return pafs.S3FileSystem(**options, **({"region": region} if region else {}))

    def obstore_config(self) -> dict[str, str | bool]:
        """Return these settings as S3 configuration of an ``ObjectStoreBackend``; empty if no field is set."""
        config: dict[str, str | bool | None] = {"endpoint": self._endpoint(), "region": self._region()}
        if self.verify is False:
            config["allow_invalid_certificates"] = True
        if self.use_unsigned_session:
            config["skip_signature"] = True
        elif self.aws_access_key_id:
            names = ("access_key_id", "secret_access_key", "session_token")
            config |= dict(zip(names, self._keys(), strict=True))
        else:
            config["profile_name"] = self.profile_name
        return {name: value for name, value in config.items() if value is not None}

    @property
    def is_public_aws(self) -> bool:
        """Tell whether buckets lie in public regions of AWS, by these settings and the environment."""
        hidden = (self._region() or "").startswith(("cn-", "us-gov-", "us-iso"))
        return not hidden and (self.endpoint_url or s3_endpoint_of_environment()) is None

    def _endpoint(self) -> str | None:
        """Return the URL of the service from field or environment; None for AWS over HTTPS."""
        url, protocol = self.endpoint_url or s3_endpoint_of_environment(), "https" if self.use_ssl else "http"
        if url:
            return url if "://" in url else f"{protocol}://{url}"
        if self.use_ssl:
            return None
        if not self._region():
            raise SpecError("use_ssl=False needs endpoint_url, or for AWS itself region_name")
        return f"http://s3.{self._region()}.amazonaws.com"

    def _region(self) -> str | None:
        return self.region_name or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None

    def _keys(self) -> tuple[str | None, str, str | None]:
        return self.aws_access_key_id, self.aws_secret_access_key or "", self.aws_session_token

    def _arrow_credentials(self) -> dict[str, Any]:
        """Return pyarrow's options for credentials: from the fields, or found by boto3 where pyarrow finds none."""
        names = ("access_key", "secret_key", "session_token")
        if self.use_unsigned_session:
            return {"anonymous": True}
        if self.aws_access_key_id:
            return dict(zip(names, self._keys(), strict=True))
        found = boto3.session.Session(profile_name=self.profile_name).get_credentials()
        if found is None or (self.profile_name is None and found.method in _RENEWED_BY_PYARROW):
            return {}
        if isinstance(found, RefreshableCredentials):
            _log.warning(
                "The temporary credentials that boto3 found by %r are not renewed while a stage reads and writes "
                "tables: a stage that takes longer than they are valid fails, and the next run reuses its headers.",
                found.method,
            )
        frozen = found.get_frozen_credentials()
        return dict(zip(names, (frozen.access_key, frozen.secret_key, frozen.token), strict=True))


class AccessSettings(S3Settings):
    """Settings to open addresses with: those of S3, who pays, and headers of HTTP requests."""

    requester_pays: bool = Field(
        default=False, description="Declare on every S3 request that the requester pays, as some public buckets demand."
    )
    headers: dict[str, str] = Field(
        default_factory=dict, description="Headers sent with every HTTP request; no secrets, Dagster shows them."
    )
    host_headers: dict[str, dict[str, str]] = Field(
        default_factory=dict, repr=False, json_schema_extra=_SECRET,
        description="Headers by host, such as {'data.example': {'X-Api-Key': EnvVar('KEY')}}: sent to that host only, "
        "and replacing headers for all hosts. A host may have its port: 'data.example:8443'.",
    )  # fmt: skip
    authorization: str | None = Field(
        default=None, repr=False, json_schema_extra=_SECRET,
        description="Authorization header of every HTTP request, such as EnvVar of 'Bearer ...'.",
    )  # fmt: skip

    def backend(self, spec: CollectionSpec) -> StorageBackend:
        """Return the backend for a collection's addresses, with its spec's settings of buckets and credentials."""
        config = {**self.obstore_config(), **({"request_payer": True} if self.requester_pays else {})}
        headers: dict[str, str | Mapping[str, str]] = {**self.headers, **self.host_headers}
        if self.authorization:
            headers["Authorization"] = self.authorization
        return create_backend(
            cloud_config=spec.cloud, default_s3_config=config, headers=headers, link_local=spec.link_local,
            credentials=spec.credentials,
        )  # fmt: skip


class FilesystemResource(AccessSettings):
    """Where record tables are read and collections are written: local paths, and URIs of any scheme pyarrow knows.

    The fields are settings for ``s3://`` paths; other paths need no settings.
    """

    def filesystem(self, path: str) -> pafs.FileSystem | None:
        """Return the filesystem of an ``s3://`` path; None for paths that pyarrow resolves by itself.

        Pyarrow resolves a URI with credentials or options in it (``s3://bucket/key?region=...``).
        """
        parts = urlsplit(path)
        if scheme(path) not in {"s3", "s3a"} or parts.query or "@" in parts.netloc:
            return None
        return self.arrow_filesystem(parts.netloc)

    def open_source(self, spec: CollectionSpec, *, trust_stored: bool = True) -> Source:
        """Open the record table of a collection; footers of unchanged files come from the workspace.

        Args:
            spec: of the collection.
            trust_stored: whether footers in the workspace count; with False all footers are read.

        Raises:
            SourceError: if the table does not exist, or is not Parquet.
            SpecError: if the spec has neither a name nor a place for the workspace.
        """
        return open_record_table(
            self.open_workspace(spec), spec.path, spec, self.filesystem, trust_stored=trust_stored,
            backend=self.backend(spec),
        )  # fmt: skip

    def open_workspace(self, spec: CollectionSpec) -> Workspace:
        """Return the workspace of a collection, in which its stages and its published files lie.

        Raises:
            SpecError: if the spec has neither a name nor a place for the workspace.
        """
        path = spec.published_path
        if path is None:
            raise SpecError("a collection of the graph needs a name: write name: in its YAML file")
        return Workspace.of(spec, self.filesystem(path))


class StorageBackendResource(AccessSettings):
    """Where file headers are read from: local files, HTTP(S) and object stores, by the scheme of each href.

    The fields of S3 are settings for the buckets of hrefs, which may lie elsewhere than the collection.
    """


class BuildOptions(dg.ConfigurableResource[Any]):
    """Choices of a single run, made in the launchpad or in run config."""

    force: bool = Field(
        default=False, description="Read the record table and every header again, whether they changed or not."
    )
    revalidate: bool = Field(
        default=False,
        description="Ask for every reused header whether its file has changed, and read changed headers again.",
    )


#: Made once, because Dagster merges definitions with one resource under a key, but not with two equal resources.
_DEFAULT_RESOURCES: Final[dict[str, Any]] = {
    FILESYSTEM: FilesystemResource(),
    BACKEND: StorageBackendResource(),
    OPTIONS: BuildOptions.configure_at_launch(),
}


def default_resources() -> dict[str, Any]:
    """Return the resources of a collection's assets, by key, for local files and credentials of the environment.

    Each call returns the same resources, so that the definitions of several collections and components can be merged.
    """
    return dict(_DEFAULT_RESOURCES)
