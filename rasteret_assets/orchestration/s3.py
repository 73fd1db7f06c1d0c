"""How S3 and stores that speak its language are reached: one set of fields, for pyarrow and for obstore.

Where fields are missing, AWS' own environment variables count, as for any other client of S3: ``AWS_ENDPOINT_URL_S3``,
``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_DEFAULT_REGION`` and those by which boto3 finds credentials.
Credentials that expire are renewed while a stage goes on, by pyarrow's SDK and by boto3.

https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
"""

import logging
import os
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
import pyarrow.fs as pafs
from botocore.credentials import RefreshableCredentials
from dagster_aws.s3 import S3Resource
from pydantic import Field

from rasteret_assets.errors import SpecError
from rasteret_assets.storage.objects import s3_endpoint_of_environment

_SECRET: dict[str, Any] = {"dagster__is_secret": True}

_log = logging.getLogger(__name__)

# botocore's names of the places where pyarrow's SDK looks for credentials too, and renews those that expire.
_RENEWED_BY_PYARROW: Final = frozenset(
    {"env", "assume-role-with-web-identity", "custom-process", "container-role", "iam-role"}
)


class S3Settings(S3Resource):
    """How S3 is reached, for pyarrow and for obstore alike: dagster-aws' ``S3Resource`` with two more faces."""

    region_name: str | None = Field(
        default=None,
        description="Region of the buckets. Where it is missing: AWS_REGION, AWS_DEFAULT_REGION, else AWS is asked.",
    )
    endpoint_url: str | None = Field(
        default=None,
        description="Of an S3-compatible store. Where it is missing: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, else AWS.",
    )
    verify: bool | None = Field(
        default=None,
        description="Whether TLS certificates are verified. Only headers can be read without; for an authority of your "
        "own set SSL_CERT_FILE in the environment.",
    )
    aws_access_key_id: str | None = Field(
        default=None, repr=False, json_schema_extra=_SECRET,
        description="AWS access key ID; give it as EnvVar. boto3's credential chain applies where it is missing.",
    )  # fmt: skip
    aws_secret_access_key: str | None = Field(
        default=None, repr=False, json_schema_extra=_SECRET,
        description="AWS secret access key; give it as EnvVar.",
    )  # fmt: skip
    aws_session_token: str | None = Field(
        default=None, repr=False, json_schema_extra=_SECRET,
        description="AWS session token of temporary credentials; give it as EnvVar.",
    )  # fmt: skip

    def get_object_to_set_on_execution_context(self) -> Any:
        """Return this resource itself, not dagster-aws' boto3 client."""
        return self

    def arrow_filesystem(self, bucket: str) -> pafs.S3FileSystem:
        """Return a pyarrow filesystem with these settings.

        AWS is asked for the region of ``bucket`` only where neither a region nor an endpoint is set.

        Raises:
            SpecError: if certificates are not to be verified, or the region of an unencrypted connection is missing.
        """
        if self.verify is False:
            raise SpecError(
                "verify=False: tables are read by pyarrow, which always verifies TLS certificates; name the file of "
                "the authority that issued them by the environment variable SSL_CERT_FILE"
            )
        options: dict[str, Any] = {
            "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=self.max_attempts),
            "allow_delayed_open": True,  # small files take one request, not three
            **self._arrow_credentials(),
        }
        endpoint, region = self._endpoint(), self._region()
        if endpoint:
            parts = urlsplit(endpoint)
            options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        elif not region:
            region = pafs.resolve_s3_region(bucket)
        return pafs.S3FileSystem(**options, **({"region": region} if region else {}))

    def obstore_config(self) -> dict[str, Any]:
        """Return these settings as S3 configuration of an ``ObjectStoreBackend``; empty where nothing is set."""
        config: dict[str, Any] = {"endpoint": self._endpoint(), "region": self._region()}
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
        """Tell whether buckets lie in AWS' public regions, as far as these settings say."""
        hidden = (self._region() or "").startswith(("cn-", "us-gov-", "us-iso"))
        return not hidden and (self.endpoint_url or s3_endpoint_of_environment()) is None

    def _endpoint(self) -> str | None:
        """Return the URL of the service: the field's, or the environment's, and of AWS only where it is not HTTPS."""
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
        """Return pyarrow's options for the credentials given, or for those boto3 finds where pyarrow does not."""
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
                "tables: a stage that takes longer than they hold fails, and the next run goes on with its headers.",
                found.method,
            )
        frozen = found.get_frozen_credentials()
        return dict(zip(names, (frozen.access_key, frozen.secret_key, frozen.token), strict=True))
