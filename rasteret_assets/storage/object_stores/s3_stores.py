"""Open S3 buckets by obstore, with the endpoint and the credentials that AWS' own tools would find."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from obstore.store import S3Store

if TYPE_CHECKING:
    from obstore.store import ClientConfig  # exists for type checkers only

# botocore renews credentials at the latest ten minutes before they expire, so new ones are valid at least so long.
_CREDENTIALS_HOLD = timedelta(minutes=10)


def open_s3(bucket: str, config: Mapping[str, Any], signed: Mapping[str, Any], **options: Any) -> S3Store:
    """Open an S3 bucket.

    Args:
        bucket: name of the bucket.
        config: obstore's S3 configuration, with ``profile_name`` and ``allow_invalid_certificates`` besides.
        signed: a ``credential_provider``. If empty, keys in ``config`` count, else those that boto3 finds, else none.
        options: further options of obstore's store.
    """
    config = {name: value for name, value in config.items() if value is not None}
    if not endpoints_in(config) and (endpoint := s3_endpoint_of_environment()):
        config["endpoint"] = endpoint
    profile, client = config.pop("profile_name", None), _client_options(config)
    if not signed and not {"skip_signature", "access_key_id", "aws_access_key_id"} & config.keys():
        signed = credentials_of_boto3(profile)
        if not signed:
            config["skip_signature"] = True
    return S3Store(bucket, client_options=client, **signed, **config, **options)


def endpoints_in(config: Mapping[str, Any]) -> list[str]:
    """Return the addresses in a configuration, under any of obstore's names: ``endpoint``, ``aws_endpoint`` ..."""
    return [str(value) for name, value in config.items() if "endpoint" in name.lower()]


def _client_options(config: dict[str, Any]) -> ClientConfig:
    """Return the options of obstore's HTTP client, which are taken out of ``config``."""
    client: ClientConfig = {}
    if any(endpoint.startswith("http://") for endpoint in endpoints_in(config)):
        client["allow_http"] = True
    if config.pop("allow_invalid_certificates", False):
        client["allow_invalid_certificates"] = True
    return client


def s3_config_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return obstore's configuration for the region, endpoint and keys of a pyarrow S3 filesystem.

    Args:
        options: of the filesystem, as it pickles them.

    Returns:
        The configuration, which has neither keys nor ``skip_signature`` if the environment's credentials count.
    """
    names = {
        "region": "region", "access_key": "access_key_id", "secret_key": "secret_access_key",
        "session_token": "session_token",
    }  # fmt: skip
    config: dict[str, Any] = {ours: options[theirs] for theirs, ours in names.items() if options[theirs]}
    if endpoint := options["endpoint_override"]:
        # Users give it with or without a scheme; pyarrow puts the environment's endpoint here, which has one.
        config["endpoint"] = endpoint if "://" in endpoint else f"{options['scheme']}://{endpoint}"
    if options["anonymous"]:
        config["skip_signature"] = True
    return config


def s3_endpoint_of_environment() -> str | None:
    """Return the address of the S3-compatible store that AWS' own variables name; None for AWS itself.

    https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html
    """
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def credentials_of_boto3(profile: str | None = None) -> dict[str, Any]:
    """Return a provider of the credentials that boto3 finds (profiles, SSO, roles ...), renewed before they expire.

    Args:
        profile: name in AWS' configuration files; None for the profile of the environment.

    Returns:
        The argument ``credential_provider`` of a store; an empty dict where boto3 finds no credentials.
    """
    # boto3 takes 0.2 s to import, and only S3 without explicit credentials needs it.
    import boto3  # noqa: PLC0415
    from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415

    session = boto3.Session(profile_name=profile)
    if session.get_credentials() is None:
        return {}
    return {"credential_provider": Boto3CredentialProvider(session, ttl=_CREDENTIALS_HOLD)}
