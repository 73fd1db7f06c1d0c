"""Environment variables of S3 clients lead to stores with S3's API: address, region, TLS and credentials."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import json
import logging
import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import trustme

from rasteret_assets import CollectionSpec, build
from rasteret_assets.dagster import FilesystemResource, StorageBackendResource, materialize_collection
from rasteret_assets.errors import SpecError, StoreUnavailableError
from rasteret_assets.storage.object_stores.s3_stores import credentials_of_boto3
from tests.support.rasters import record_table, tiff_bytes
from tests.support.s3 import KEYS, bucket_server
from tests.support.server import RangeServer

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Remove AWS' variables from the environment, except keys, whose values are arbitrary."""
    for name in (
        "AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["aws_secret_access_key"])
    return monkeypatch


@pytest.fixture
def stored(request: pytest.FixtureRequest) -> Iterator[tuple[str, CollectionSpec]]:
    """The address of a store with a record table and its files, and the spec of their collection."""
    # A bucket for each test, because moto keeps the buckets of all its servers in one place.
    bucket = f"environment-{abs(hash(request.node.name)) % 10_000}"
    with bucket_server(bucket) as place:
        url = f"http://{place}"
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **KEYS)
        table = io.BytesIO()
        pq.write_table(record_table(["a"], {"B02": [f"s3://{bucket}/a.tif"]}), table)
        client.put_object(Bucket=bucket, Key="items.parquet", Body=table.getvalue())
        client.put_object(Bucket=bucket, Key="a.tif", Body=tiff_bytes())
        client.close()
        yield (
            url,
            CollectionSpec.of(
                path=f"s3://{bucket}/items.parquet", name="s2", workspace_dir=f"s3://{bucket}/out", enrich_cog=True
            ),
        )


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_ENDPOINT_URL_S3": "", "AWS_REGION": "us-east-1"},
        {"AWS_ENDPOINT_URL": "", "AWS_DEFAULT_REGION": "us-east-1"},
        # The address of S3 counts over the address of all services. A store other than AWS needs no region.
        {"AWS_ENDPOINT_URL_S3": "", "AWS_ENDPOINT_URL": NOWHERE},
    ],
    ids="-".join,
)
def test_the_environment_alone_leads_to_a_store(
    stored: tuple[str, CollectionSpec],
    variables: dict[str, str],
    environment: pytest.MonkeyPatch,
    instance: dg.DagsterInstance,
) -> None:
    url, spec = stored
    for name, value in variables.items():
        environment.setenv(name, value or url)
    (counts,) = materialize_collection(spec, instance).values()  # by the resources of the shipped definitions.py
    assert counts["band_metadata"]["headers_fetched"] == 1
    assert counts["collection"]["path"].startswith(spec.published_path)
    # The library finds the same store, because it finds every partition current.
    assert build(spec).totals["headers_fetched"] == 0


def test_fields_count_over_the_environment(environment: pytest.MonkeyPatch, stored: tuple[str, CollectionSpec]) -> None:
    url, spec = stored
    environment.setenv("AWS_ENDPOINT_URL", NOWHERE)
    environment.setenv("AWS_REGION", "eu-west-3")
    assert FilesystemResource().arrow_filesystem("b").region == "eu-west-3"
    resource = FilesystemResource(endpoint_url=url, region_name="us-east-1")
    assert resource.arrow_filesystem("b").region == "us-east-1"
    assert resource.filesystem(spec.path).get_file_info(spec.path.removeprefix("s3://")).is_file


def read(settings: dict[str, Any], url: str) -> bytes:
    """Read the first bytes of an object with the resource that reads headers."""
    backend = StorageBackendResource(**settings).backend(CollectionSpec.of(path="x.parquet", name="x"))
    return bytes(asyncio.run(backend.read(url, 0, 4)).data)


def test_an_address_without_a_scheme_is_one_of_the_protocol_that_use_ssl_says(server: RangeServer) -> None:
    server.objects["/images/x"] = b"data"
    host = server.url.removeprefix("http://")
    assert read({"endpoint_url": host, "use_ssl": False}, "s3://images/x") == b"data"
    plain = FilesystemResource(endpoint_url=host, use_ssl=False).arrow_filesystem("images")
    assert plain.__reduce__()[1][0]["scheme"] == "http"
    assert FilesystemResource(endpoint_url=host).arrow_filesystem("images").__reduce__()[1][0]["scheme"] == "https"
    # AWS itself without TLS has an address for each region.
    aws = FilesystemResource(use_ssl=False, region_name="eu-west-3").arrow_filesystem("images").__reduce__()[1][0]
    assert (aws["scheme"], aws["endpoint_override"]) == ("http", "s3.eu-west-3.amazonaws.com")
    with pytest.raises(SpecError, match="use_ssl=False needs endpoint_url"):
        FilesystemResource(use_ssl=False).arrow_filesystem("images")


def test_certificates_are_verified_unless_headers_alone_are_read_without(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = RangeServer(tmp_path)
    server.objects["/images/x"] = b"data"
    with server.running(context):
        settings = {"endpoint_url": server.url, "max_attempts": 1}
        assert read({**settings, "verify": False}, "s3://images/x") == b"data"
        assert server.seen["/images/x"] == 1
        with pytest.raises(StoreUnavailableError):
            read(settings, "s3://images/x")
        assert server.seen["/images/x"] == 1
        with pytest.raises(SpecError, match=r"verify=False is not possible .*SSL_CERT_FILE"):
            FilesystemResource(**settings, verify=False).arrow_filesystem("images")


def keys_of(server: RangeServer) -> list[str]:
    """Return the access keys that requests were signed with."""
    headers = [{name.lower(): value for name, value in one.items()} for one in server.headers]
    return re.findall(r"Credential=(\w+)/", " ".join(one.get("authorization", "") for one in headers))


class Keys:
    """A server of keys that expire after a few seconds, like a container's: ``KEY1``, ``KEY2`` ..."""

    def __init__(self, server: RangeServer) -> None:
        self.server, self.given = server, 0
        server.fault = self._next

    def _next(self, path: str, before: int) -> None:
        if path == "/keys":
            self.given += 1
            until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=2)
            answer = {
                "AccessKeyId": f"KEY{self.given}", "SecretAccessKey": "s", "Token": "t",
                "Expiration": f"{until:%Y-%m-%dT%H:%M:%SZ}",
            }  # fmt: skip
            self.server.objects["/keys"] = json.dumps(answer).encode()

    @property
    def used(self) -> list[str]:
        """Return the keys that objects were requested with."""
        return keys_of(self.server)


@pytest.fixture
def keys(server: RangeServer, environment: pytest.MonkeyPatch) -> Keys:
    environment.delenv("AWS_ACCESS_KEY_ID")
    environment.delenv("AWS_SECRET_ACCESS_KEY")
    environment.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/keys")
    environment.setenv("AWS_ENDPOINT_URL_S3", server.url)
    return Keys(server)


def test_credentials_that_expire_are_renewed_while_a_filesystem_is_used(keys: Keys) -> None:
    filesystem = FilesystemResource(max_attempts=1).arrow_filesystem("images")
    for _ in range(2):
        with pytest.raises(OSError, match="images"):  # the server lists nothing
            filesystem.get_file_info(pafs.FileSelector("images/folder"))
    assert len(set(keys.used)) >= 2


def test_headers_are_read_with_credentials_that_boto3_renews(keys: Keys) -> None:
    keys.server.objects["/images/x"] = b"data"
    assert read({}, "s3://images/x") == b"data"
    assert keys.used == [f"KEY{keys.given}"]
    provider = credentials_of_boto3()["credential_provider"]
    first, second = provider(), provider()
    assert first["access_key_id"] != second["access_key_id"]
    # Requested again before the keys expire, because botocore renews keys ten minutes before.
    assert second["expires_at"] <= dt.datetime.now(dt.UTC) + dt.timedelta(minutes=10)


def test_a_profile_of_the_configuration_signs_both(
    server: RangeServer, environment: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "AWS_SHARED_CREDENTIALS_FILE").write_text(
        "[maps]\naws_access_key_id = MAPS\naws_secret_access_key = s\n"
    )
    server.objects["/images/x"] = b"data"
    settings = {"endpoint_url": server.url, "profile_name": "maps"}
    assert read(settings, "s3://images/x") == b"data"
    assert keys_of(server) == ["MAPS"]
    filesystem = FilesystemResource(**settings).arrow_filesystem("images")
    assert filesystem.__reduce__()[1][0]["access_key"] == "MAPS"
    assert not caplog.records


def test_temporary_credentials_that_pyarrow_cannot_renew_are_reported(
    keys: Keys, environment: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer = {"Version": 1, "AccessKeyId": "SSO", "SecretAccessKey": "s", "Expiration": "2999-01-01T00:00:00Z"}
    given = tmp_path / "keys.json"
    given.write_text(json.dumps(answer))
    (tmp_path / "AWS_CONFIG_FILE").write_text(f"[profile maps]\ncredential_process = cat {given}\n")
    with caplog.at_level(logging.WARNING):
        filesystem = FilesystemResource(profile_name="maps").arrow_filesystem("images")
    assert filesystem.__reduce__()[1][0]["access_key"] == "SSO"
    (record,) = caplog.records
    assert "found by 'custom-process' are not renewed" in record.getMessage()
