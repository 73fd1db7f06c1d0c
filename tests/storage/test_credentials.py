"""Files that a token opens: had once, renewed in time and when it is refused, and told in one sentence where it fails."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pickle
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pyarrow.parquet as pq
import pytest

import rasteret_assets as ra
from rasteret_assets import create_backend
from rasteret_assets.errors import (
    AccessDeniedError,
    CredentialsError,
    RangeReadError,
    SpecError,
    StoreUnavailableError,
)
from rasteret_assets.storage.tokens import IssuerError, Token, Tokens
from tests.support.rasters import footprint, record_table, tiff_bytes
from tests.support.s3 import KEYS, bucket_server
from tests.support.server import RangeServer
from tests.support.tunnel import Page, served

ACCOUNT = "sentinel2l2a01"
BLOBS = f"https://{ACCOUNT}.blob.core.windows.net"


@dataclass
class Azure:
    """Microsoft's token endpoint and its storage: a signature opens one container as long as it holds."""

    lasts_s: float = 3600
    #: Requests that a signature opens; None for as many as there are.
    uses: int | None = None
    status: int = 200
    keys: set[str] = field(default_factory=set)
    asked: Counter[str] = field(default_factory=Counter)
    queries: list[str] = field(default_factory=list)
    left: dict[str, int | None] = field(default_factory=dict)
    body: bytes = field(default_factory=tiff_bytes)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def opens(self, container: str, query: str) -> bool:
        with self.lock:
            self.queries.append(query)
            key = f"{container} {parse_qs(query).get('sig', [''])[0]}"
            if key not in self.left:
                return False
            uses = self.left[key]
            if uses is None:
                return True
            self.left[key] = uses - 1
            return uses > 0

    def token(self, container: str) -> dict[str, str]:
        with self.lock:
            self.asked[container] += 1
            secret = f"PLANTED{container}{self.asked[container]}"
            self.left[f"{container} {secret}"] = self.uses
        expiry = datetime.now(UTC) + timedelta(seconds=self.lasts_s)
        return {"msft:expiry": expiry.strftime("%Y-%m-%dT%H:%M:%SZ"), "token": f"sv=2021-06-08&sr=c&sig={secret}"}


def azure_pages(azure: Azure) -> type[Page]:
    class Pages(Page):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if self.host == "planetarycomputer.microsoft.com":
                container = parts.path.rpartition("/")[2]
                if azure.status != 200:
                    self.answer(azure.status, b"no")
                elif container == "unknown":
                    self.answer(404, b"{}")
                elif container == "nonsense":
                    self.answer(200, b"<p>maintenance")
                else:
                    told = json.dumps(azure.token(container)).encode()
                    self.answer(200, told, {"Content-Type": "application/json"})
                return
            container = parts.path.split("/")[1]
            if container == "closed" or not azure.opens(container, parts.query):
                self.answer(403, b"<Error><Code>AuthenticationFailed</Code></Error>")
            elif parts.path.endswith("gone.tif"):
                self.answer(404)
            else:
                self.file(azure.body)

    return Pages


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    made = Azure()
    for name in ("PC_SDK_SUBSCRIPTION_KEY", "PC_SDK_SAS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [f"{ACCOUNT}.blob.core.windows.net", "planetarycomputer.microsoft.com"]
    with served(azure_pages(made), names, tmp_path, monkeypatch):
        yield made


def read(backend: Any, *urls: str) -> list[bytes | RangeReadError]:
    """The first bytes of files, or why there are none; all are asked for at once."""

    async def one(url: str) -> bytes | RangeReadError:
        try:
            return bytes(await backend.get_range(url, 0, 4))
        except RangeReadError as error:
            return error

    async def all_of_them() -> list[bytes | RangeReadError]:
        try:
            return list(await asyncio.gather(*map(one, urls)))
        finally:
            await backend.aclose()

    return asyncio.run(all_of_them())


def test_a_container_is_signed_for_once_however_many_ask(azure: Azure) -> None:
    backend = create_backend(credentials="planetary_computer")
    urls = [f"{BLOBS}/sentinel2-l2/{number}.tif" for number in range(40)]
    assert set(read(backend, *urls, f"{BLOBS}/other/a.tif")) == {azure.body[:4]}
    with ThreadPoolExecutor(4) as threads:  # event loops of their own
        assert [found.result() for found in [threads.submit(read, backend, urls[0]) for _ in range(4)]]
    assert azure.asked == {"sentinel2-l2": 1, "other": 1}
    assert all("sig=PLANTED" in query for query in azure.queries)


def test_an_address_that_is_signed_or_public_is_asked_for_as_it_is(azure: Azure) -> None:
    backend = create_backend(credentials="planetary_computer")
    own = f"{BLOBS}/sentinel2-l2/a.tif?sv=1&sig=mine"
    (error,) = read(backend, own)
    assert isinstance(error, AccessDeniedError)
    assert str(error) == f"{BLOBS}/sentinel2-l2/a.tif: HTTP 403 Forbidden"
    assert (azure.asked, azure.queries) == ({}, ["sv=1&sig=mine"])


def test_a_signature_that_is_refused_is_renewed_once_for_all(azure: Azure) -> None:
    backend = create_backend(credentials="planetary_computer")
    azure.uses = 30
    urls = [f"{BLOBS}/sentinel2-l2/{number}.tif" for number in range(50)]
    assert set(read(backend, *urls)) == {azure.body[:4]}
    assert azure.asked["sentinel2-l2"] == 2
    assert set(read(backend, *urls[:30])) == {azure.body[:4]}
    assert azure.asked["sentinel2-l2"] == 3


def test_a_container_that_stays_closed_costs_one_more_signature(azure: Azure) -> None:
    backend = create_backend(credentials="planetary_computer")
    urls = [f"{BLOBS}/closed/{number}.tif" for number in range(20)]
    found = read(backend, *urls, f"{BLOBS}/sentinel2-l2/a.tif")
    found += read(backend, *urls)
    assert azure.asked == {"closed": 2, "sentinel2-l2": 1}
    refused = [error for error in found if isinstance(error, AccessDeniedError)]
    assert len(refused) == 40
    assert str(refused[0]) == (
        f"{BLOBS}/closed/0.tif: HTTP 403 although the request was signed, also with renewed credentials of "
        "planetary_computer: the container may not be open to everyone, or the file lies outside it"
    )
    assert azure.body[:4] in found


@pytest.mark.parametrize(
    ("container", "status", "kind", "sentence"),
    [
        ("unknown", 200, CredentialsError, f"HTTP 404: it knows no container 'unknown' of the account '{ACCOUNT}'"),
        ("nonsense", 200, CredentialsError, "something that is not a token: check the address in PC_SDK_SAS_URL"),
        ("a-b", 401, CredentialsError, "HTTP 401: check the subscription key in PC_SDK_SUBSCRIPTION_KEY"),
        ("a-b", 503, StoreUnavailableError, "HTTP 503: try again later"),
        ("a-b", 429, StoreUnavailableError, "HTTP 429: try again later"),
    ],
)
def test_what_keeps_a_signature_away_is_one_sentence(
    azure: Azure, container: str, status: int, kind: type[RangeReadError], sentence: str
) -> None:
    azure.status = status
    backend = create_backend(credentials="planetary_computer")
    error, _ = read(backend, f"{BLOBS}/{container}/a.tif", f"{BLOBS}/{container}/b.tif")
    assert type(error) is kind
    assert str(error).startswith(f"{BLOBS}/{container}/a.tif: the token endpoint of planetary_computer answers")
    assert str(error).endswith(sentence)
    assert azure.queries == []


def test_a_signature_that_has_expired_when_it_comes_tells_of_the_clock(azure: Azure) -> None:
    azure.lasts_s = -60
    (error,) = read(create_backend(credentials="planetary_computer"), f"{BLOBS}/sentinel2-l2/a.tif")
    assert isinstance(error, CredentialsError)
    assert "have expired at" in str(error)
    assert str(error).endswith("check the clock of this machine")


def test_no_token_travels_to_another_process(azure: Azure) -> None:
    backend = create_backend(credentials="planetary_computer")
    read(backend, f"{BLOBS}/sentinel2-l2/a.tif")
    sent = pickle.dumps(backend)
    assert b"PLANTED" not in sent
    assert read(pickle.loads(sent), f"{BLOBS}/sentinel2-l2/a.tif") == [azure.body[:4]]
    assert azure.asked["sentinel2-l2"] == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_forked_process_asks_for_its_own_token(azure: Azure) -> None:
    backend = create_backend(credentials="planetary_computer")
    url = f"{BLOBS}/sentinel2-l2/a.tif"
    read(backend, url)
    child = os.fork()
    if not child:
        try:
            os._exit(0 if read(backend, url) == [azure.body[:4]] else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert azure.asked["sentinel2-l2"] == 2


def test_a_collection_is_built_and_read_with_signatures_that_nothing_keeps(
    azure: Azure, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    hrefs = [f"{BLOBS}/sentinel2-l2/{name}.tif" for name in ("a", "b", "gone")] + [f"{BLOBS}/unknown/c.tif"]
    pq.write_table(record_table(["a", "b", "c", "d"], {"B02": hrefs}, outline=footprint(azure.body)), tmp_path / "t.parquet")
    spec = ra.CollectionSpec.of(
        path=str(tmp_path / "t.parquet"), name="t", workspace_dir=str(tmp_path / "out"), enrich_cog=True,
        band_codes=["B02"], credentials="planetary_computer",
    )  # fmt: skip
    report = ra.build(spec)
    assert report.totals["headers_fetched"] == 4
    collection = ra.load(tmp_path / "out" / "t_records")
    assert collection.credentials == "planetary_computer"
    assert (collection.get_numpy(footprint(azure.body), bands="B02") > 0).sum() == 2 * 80 * 100
    sent = pickle.dumps(collection)
    assert b"PLANTED" not in sent
    ledger = {row["id"]: row for row in _ledger(tmp_path / "out" / "t_records")}
    assert {key: row["error_class"] for key, row in ledger.items()} == {"c": "not_found", "d": "credentials"}
    written = [caplog.text, *capfd.readouterr()]
    written += [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    written += [
        str(pq.read_table(path, partitioning=None).to_pylist()) for path in (tmp_path / "out").rglob("*.parquet")
    ]
    assert not [text for text in written if "PLANTED" in text]


def _ledger(published: Path) -> list[dict[str, Any]]:
    from rasteret_assets.headers.failures import read_failures
    from rasteret_assets.storage.workspace import Workspace

    return read_failures(Workspace.at(str(published))).table.to_pylist()
