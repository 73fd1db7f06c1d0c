"""Files that a token opens: a token is fetched once and renewed in time, and one sentence says why there is none."""

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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import rasteret_assets as ra
from rasteret_assets import create_backend
from rasteret_assets.cli import main
from rasteret_assets.collection.pixels import backends
from rasteret_assets.errors import (
    AccessDeniedError,
    CredentialsError,
    RangeReadError,
    SpecError,
    StoreUnavailableError,
)
from rasteret_assets.headers.failures import read_failures
from rasteret_assets.storage.credentials.tokens import IssuerError, Token, Tokens
from rasteret_assets.storage.process.processes import OfProcess
from rasteret_assets.storage.workspace import Workspace
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
    #: Requests for a signature that fail before one is answered.
    failing: int = 0
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
        def do_GET(self) -> None:  # noqa: N802  (the name that the base class looks for)
            parts = urlsplit(self.path)
            if self.host == "planetarycomputer.microsoft.com":
                container = parts.path.rpartition("/")[2]
                if azure.failing:
                    azure.failing -= 1
                    self.answer(503, b"later")
                elif azure.status != 200:
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


def _reads_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that share a backend take the proxy of this test, not of the one before."""
    monkeypatch.setattr(backends, "_shared", OfProcess(dict))


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Azure]:
    made = Azure()
    _reads_anew(monkeypatch)
    for name in ("PC_SDK_SUBSCRIPTION_KEY", "PC_SDK_SAS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [f"{ACCOUNT}.blob.core.windows.net", "planetarycomputer.microsoft.com"]
    with served(azure_pages(made), names, tmp_path, monkeypatch):
        yield made


def read(backend: Any, *urls: str) -> list[bytes | RangeReadError]:
    """Return the first bytes of files, or the errors; all files are asked for at once."""

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


def test_a_signature_of_the_table_counts_as_long_as_it_holds(azure: Azure) -> None:
    backend = create_backend(credentials="planetary_computer")
    azure.left["sentinel2-l2 mine"] = 1
    url = f"{BLOBS}/sentinel2-l2/a.tif?sv=1&sig=mine"
    assert read(backend, url) == [azure.body[:4]]
    assert (azure.asked, azure.queries) == ({}, ["sv=1&sig=mine"])
    assert read(backend, url) == [azure.body[:4]]
    assert azure.asked == {"sentinel2-l2": 1}
    assert azure.queries[1:] == ["sv=1&sig=mine", "sv=2021-06-08&sr=c&sig=PLANTEDsentinel2-l21"]


def test_an_address_outside_their_containers_is_asked_for_as_it_is(azure: Azure, server: RangeServer) -> None:
    server.objects["/sentinel2-l2/a.tif?x=1"] = b"data"
    backend = create_backend(credentials="planetary_computer")
    assert read(backend, f"{server.url}/sentinel2-l2/a.tif?x=1") == [b"data"]
    assert azure.asked == {}


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


def test_files_wait_for_an_endpoint_that_fails_for_a_moment(azure: Azure, tmp_path: Path) -> None:
    azure.failing = 2
    hrefs = [f"{BLOBS}/sentinel2-l2/{number}.tif" for number in range(5)]
    table = record_table([f"r{number}" for number in range(5)], {"B02": hrefs})
    built = ra.build_from_table(table, enrich_cog=True, backend=create_backend(credentials="planetary_computer"))
    assert built.to_table()["B02_metadata"].null_count == 0
    assert azure.asked["sentinel2-l2"] == 1


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
    pq.write_table(
        record_table(["a", "b", "c", "d"], {"B02": hrefs}, outline=footprint(azure.body)), tmp_path / "t.parquet"
    )
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
    return read_failures(Workspace.at(str(published))).table.to_pylist()


# --- Earthdata --------------------------------------------------------------------------------------------------------

LOGIN, DATA, CLOUD = "urs.earthdata.nasa.gov", "data.lpdaac.earthdatacloud.nasa.gov", "d1nklfio7vscoe.cloudfront.net"
GRANULES = f"https://{DATA}/lp-prod-protected/HLSL30.020"


@dataclass
class Nasa:
    """Earthdata Login, an archive's web server, which redirects to a signed address, and the host of that address."""

    tokens: set[str] = field(default_factory=set)
    expiry: str = "12/31/2037"
    logins: list[str] = field(default_factory=list)
    s3: list[str] = field(default_factory=list)
    at_cloud: list[dict[str, str]] = field(default_factory=list)
    cookies: list[str] = field(default_factory=list)
    body: bytes = field(default_factory=tiff_bytes)
    closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


def nasa_pages(nasa: Nasa) -> type[Page]:
    class Pages(Page):
        def do_POST(self) -> None:  # noqa: N802  (likewise)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            given = self.headers.get("Authorization") or ""
            with nasa.lock:
                nasa.logins.append(given)
                if given != "Basic bWU6UExBTlRFRHBhc3M=":
                    self.answer(401, b'{"error": "invalid_credentials"}')
                    return
                token = f"PLANTEDtoken{len(nasa.logins)}"
                nasa.tokens.add(token)
            told = {"access_token": token, "token_type": "Bearer", "expiration_date": nasa.expiry}
            self.answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})

        def do_GET(self) -> None:  # noqa: N802  (the name that the base class looks for)
            if self.host == LOGIN:
                self.answer(200, b"<!DOCTYPE html>Log in")
            elif self.host == CLOUD:
                nasa.at_cloud.append(dict(self.headers))
                is_signed = "Signature=PLANTEDcloud" in self.path
                self.file(nasa.body) if is_signed else self.answer(403)
            elif (self.headers.get("Authorization") or "").removeprefix("Bearer ") not in nasa.tokens:
                self.answer(302, headers={"Location": f"https://{LOGIN}/oauth/authorize?client_id=x"})
            elif nasa.closed:
                self.answer(403, b"EULA Acceptance Failure")
            elif self.path == "/s3credentials":
                nasa.s3.append(self.headers.get("Authorization") or "")
                expiration = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%d %H:%M:%S+00:00")
                told = {
                    "accessKeyId": "k",
                    "secretAccessKey": "s",
                    "sessionToken": "PLANTEDs3",
                    "expiration": expiration,
                }
                self.answer(200, json.dumps(told).encode())
            else:
                if cookie := self.headers.get("Cookie"):
                    nasa.cookies.append(cookie)
                self.answer(303, headers={
                    "Location": f"https://{CLOUD}{self.path}?Expires=1&Signature=PLANTEDcloud",
                    "Set-Cookie": "asf-urs=PLANTEDcookie; Path=/; Secure",
                })  # fmt: skip

    return Pages


@pytest.fixture
def nasa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nasa]:
    made = Nasa()
    _reads_anew(monkeypatch)
    for name in ("EARTHDATA_TOKEN", "EARTHDATA_USERNAME", "EARTHDATA_PASSWORD", "EARTHDATA_HOST", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with served(nasa_pages(made), [LOGIN, DATA, CLOUD], tmp_path, monkeypatch):
        yield made


def test_one_login_opens_the_archives_and_no_other_host_sees_its_token(nasa: Nasa, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine {LOGIN} login me password PLANTEDpass\n")
    backend = create_backend(credentials="earthdata")
    urls = [f"{GRANULES}/{number}.tif" for number in range(30)]
    assert set(read(backend, *urls)) == {nasa.body[:4]}
    assert len(nasa.logins) == 1
    assert len(nasa.at_cloud) == 30
    assert not [headers for headers in nasa.at_cloud if "Authorization" in headers or "Cookie" in headers]
    assert set(nasa.cookies) <= {"asf-urs=PLANTEDcookie"}
    assert b"PLANTED" not in pickle.dumps(backend)


@pytest.mark.parametrize("given", ["token", "account"])
def test_the_environment_says_who_asks(nasa: Nasa, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    if given == "token":
        nasa.tokens.add("mine")
        monkeypatch.setenv("EARTHDATA_TOKEN", "mine")
    else:
        monkeypatch.setenv("EARTHDATA_USERNAME", "me")
        monkeypatch.setenv("EARTHDATA_PASSWORD", "PLANTEDpass")
    assert read(create_backend(credentials="earthdata"), f"{GRANULES}/a.tif") == [nasa.body[:4]]
    assert len(nasa.logins) == (given == "account")


def test_a_login_page_instead_of_a_file_renews_the_token(nasa: Nasa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EARTHDATA_USERNAME", "me")
    monkeypatch.setenv("EARTHDATA_PASSWORD", "PLANTEDpass")
    backend = create_backend(credentials="earthdata")
    urls = [f"{GRANULES}/{number}.tif" for number in range(20)]
    read(backend, urls[0])
    nasa.tokens.clear()
    assert set(read(backend, *urls)) == {nasa.body[:4]}
    assert len(nasa.logins) == 2


@pytest.mark.parametrize(
    ("netrc", "environment", "sentence"),
    [
        (None, {}, "urs.earthdata.nasa.gov is given, and the netrc file does not exist: set EARTHDATA_TOKEN"),
        ("machine example.com login a password b\n", {}, "and the netrc file has none: set EARTHDATA_TOKEN, or"),
        ("machine PLANTED\nbroken PLANTED", {}, "cannot be read (NetrcParseError): set EARTHDATA_TOKEN, or"),
        (None, {"EARTHDATA_USERNAME": "me", "EARTHDATA_PASSWORD": "PLANTEDwrong"},
         "Earthdata Login (urs.earthdata.nasa.gov) answers HTTP 401: it does not know this user and password"),
        (None, {"EARTHDATA_TOKEN": "PLANTED two"}, "EARTHDATA_TOKEN holds a space or a line end"),
        (None, {"EARTHDATA_TOKEN": "PLANTEDold"}, "also with renewed credentials of earthdata: the account may have"),
    ],
)  # fmt: skip
def test_what_keeps_an_account_out_is_one_sentence(
    nasa: Nasa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, netrc: str | None, environment: dict[str, str],
    sentence: str,
) -> None:  # fmt: skip
    if netrc is not None:
        (tmp_path / ".netrc").write_text(netrc)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    (error,) = read(create_backend(credentials="earthdata"), f"{GRANULES}/a.tif")
    assert isinstance(error, CredentialsError | AccessDeniedError)
    assert str(error).startswith(f"{GRANULES}/a.tif: ")
    assert sentence in str(error)
    assert "PLANTED" not in str(error)


def test_data_whose_terms_were_not_accepted_are_an_error_that_says_so(
    nasa: Nasa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EARTHDATA_USERNAME", "me")
    monkeypatch.setenv("EARTHDATA_PASSWORD", "PLANTEDpass")
    nasa.closed = True
    (error,) = read(create_backend(credentials="earthdata"), f"{GRANULES}/a.tif")
    assert "the account may have to accept the terms of the data" in str(error)


def test_each_bucket_of_an_archive_is_opened_by_its_own_credentials(
    nasa: Nasa, monkeypatch: pytest.MonkeyPatch
) -> None:
    nasa.tokens.add("mine")
    monkeypatch.setenv("EARTHDATA_TOKEN", "mine")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    with bucket_server("lp-prod-protected") as endpoint:
        client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1", **KEYS)
        client.put_object(Bucket="lp-prod-protected", Key="a.tif", Body=nasa.body)
        client.close()
        backend = create_backend(
            credentials="earthdata", default_s3_config={"endpoint": f"http://{endpoint}", "region": "us-east-1"}
        )
        assert set(read(backend, *["s3://lp-prod-protected/a.tif"] * 10)) == {nasa.body[:4]}
        assert nasa.s3 == ["Bearer mine"]
        monkeypatch.setenv("EARTHDATA_TOKEN", "PLANTEDold")
        other = pickle.loads(pickle.dumps(backend))
        (error,) = read(other, "s3://lp-prod-protected/a.tif")
    assert isinstance(error, CredentialsError)
    assert "it does not take the token of this account" in str(error)


@pytest.mark.parametrize("way", ["command", "graph"])
def test_no_token_is_in_anything_that_a_build_or_a_read_leaves(
    nasa: Nasa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("EARTHDATA_USERNAME", "me")
    monkeypatch.setenv("EARTHDATA_PASSWORD", "PLANTEDpass")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    if way == "graph":
        (tmp_path / "home").mkdir()
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    hrefs = [f"{GRANULES}/{name}.tif" for name in ("a", "b")] + [f"https://{CLOUD}/c.tif"]
    times = [datetime(2024, 4, 5, tzinfo=UTC)] * 3
    table = record_table(["a", "b", "c"], {"B02": hrefs}, datetimes=times, outline=footprint(nasa.body))
    pq.write_table(table, tmp_path / "t.parquet")
    declaration = {
        "path": str(tmp_path / "t.parquet"), "workspace_dir": str(tmp_path / "out"), "enrich_cog": True,
        "credentials": "earthdata",
    }  # fmt: skip
    (tmp_path / "collections").mkdir()
    (tmp_path / "collections" / "t.yaml").write_text(json.dumps(declaration))
    told = ""
    for arguments in (["build"], ["status"], ["failures", "t"], ["show", "t"], ["check"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        told += result.output
    assert len(nasa.logins) == 1
    collection = ra.load(tmp_path / "out" / "t_records")
    assert collection.get_numpy(footprint(nasa.body), bands="B02").shape[0] == 2
    written = {"told": told, "log": caplog.text}
    for path in tmp_path.rglob("*"):
        if path.is_file():
            text = path.read_bytes().decode(errors="replace")
            if path.suffix == ".parquet":
                text += str(pq.read_table(path, partitioning=None).to_pylist())
            written[str(path)] = text
    assert {place for place, text in written.items() if "PLANTED" in text} == set()
    assert "forbidden" in told  # the file of a host that is not one of Earthdata's


# --- a function of the user's own -------------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module ``opened_by`` whose text a test writes."""
    folder = tmp_path / "code"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder / "opened_by.py"
    sys.modules.pop("opened_by", None)


OWN = {"opened_by": "open_place"}


def test_a_function_opens_hosts_by_headers_or_by_a_query(own: Path, server: RangeServer) -> None:
    own.write_text(
        "asked = []\n"
        "def open_place(place):\n"
        "    asked.append(place)\n"
        "    return {'headers': {'X-Key': 'PLANTED'}, 'query': 'token=PLANTED2'}\n"
    )
    server.objects["/a.tif"] = server.objects["/b.tif"] = b"data"
    backend = create_backend(credentials=OWN, headers={"x-key": "other"})
    assert read(backend, f"{server.url}/a.tif", f"{server.url}/b.tif?v=1") == [b"data"] * 2
    assert sorted(server.paths) == ["/a.tif?token=PLANTED2", "/b.tif?v=1&token=PLANTED2"]
    sent = [{key.lower(): value for key, value in headers.items()} for headers in server.headers]
    assert {headers["x-key"] for headers in sent} == {"PLANTED"}
    assert sys.modules["opened_by"].asked == [server.url]
    assert b"PLANTED" not in pickle.dumps(backend)


def test_a_function_that_returns_nothing_leaves_requests_as_they_are(own: Path, server: RangeServer) -> None:
    own.write_text("def open_place(place): return None\n")
    server.objects["/a.tif"] = b"data"
    server.fault = lambda path, before: "403" if path == "/b.tif" else None
    found = read(create_backend(credentials=OWN), f"{server.url}/a.tif", f"{server.url}/b.tif")
    assert found[0] == b"data"
    assert str(found[1]) == f"{server.url}/b.tif: HTTP 403 Forbidden"
    assert sorted(server.paths) == ["/a.tif", "/b.tif"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("raise ValueError('PLANTED')", "opened_by:open_place raised ValueError for"),
        ("return 'PLANTED'", "it is a str"),
        ("return {}", "nothing is in it; return None for a place that needs nothing"),
        ("return {'headers': {'X': 'PLANTED\\n'}}", "the value given for the HTTP header X is not a text"),
        ("return {'headers': 'PLANTED'}", "headers are not a mapping"),
        ("return {'query': 'a b#PLANTED'}", "query is not a text that may stand behind an address"),
        ("return {'query': 'a=1', 'expires_at': 'PLANTED'}", "expires_at is not a datetime with a time zone"),
        ("return {'access_key_id': 'PLANTED'}", "['access_key_id'] open a bucket, and this is a web server"),
        ("import sys; sys.exit('PLANTED')", "opened_by:open_place raised SystemExit for"),
    ],
)
def test_the_error_of_a_failing_credential_function_hides_its_message(
    own: Path, server: RangeServer, body: str, sentence: str
) -> None:
    own.write_text(f"def open_place(place):\n    {body}\n")
    server.objects["/a.tif"] = b"data"
    (error,) = read(create_backend(credentials=OWN), f"{server.url}/a.tif")
    assert isinstance(error, CredentialsError)
    assert str(error).startswith(f"{server.url}/a.tif: ")
    assert sentence in str(error)
    assert "PLANTED" not in str(error)
    assert server.paths == []


@pytest.mark.parametrize(
    ("url", "body", "sentence"),
    [
        (
            "s3://b/k",
            "{'access_key_id': 'PLANTED'}",
            "a bucket of s3:// is opened by access_key_id and secret_access_key",
        ),
        ("gs://b/k", "{'foo': 'PLANTED'}", "a bucket of gs:// is opened by token"),
        ("az://c/k", "{'foo': 'PLANTED'}", "a bucket of az:// is opened by sas_token or by token or by access_key"),
        ("s3://b/k", "{'headers': {'X': 'PLANTED'}}", "headers and query are for web servers, and this is a bucket"),
    ],
)
def test_credentials_that_open_no_bucket_are_reported(own: Path, url: str, body: str, sentence: str) -> None:
    own.write_text(f"def open_place(place): return {body}\n")
    (error,) = read(create_backend(credentials=OWN), url)
    assert isinstance(error, CredentialsError)
    assert str(error).endswith(sentence)


def test_a_function_opens_a_bucket(own: Path) -> None:
    own.write_text(
        "from datetime import UTC, datetime, timedelta\n"
        "def open_place(place):\n"
        "    keys = {'access_key_id': 'k', 'secret_access_key': 's', 'token': 'PLANTED'}\n"
        "    return {**keys, 'expires_at': datetime.now(UTC) + timedelta(hours=1)} if place == 's3://mine' else None\n"
    )
    with bucket_server("mine") as endpoint:
        client = boto3.client("s3", endpoint_url=f"http://{endpoint}", region_name="us-east-1", **KEYS)
        client.put_object(Bucket="mine", Key="a.tif", Body=b"data")
        client.close()
        config = {"endpoint": f"http://{endpoint}", "region": "us-east-1"}
        backend = create_backend(credentials=OWN, default_s3_config=config)
        assert read(backend, "s3://mine/a.tif") == [b"data"]
    assert b"PLANTED" not in pickle.dumps(backend)


@pytest.mark.parametrize(
    ("credentials", "sentence"),
    [
        ({"no_such.module": "f"}, "the module cannot be imported (ModuleNotFoundError: No module named 'no_such')"),
        ({"json": "no_such"}, "{json: no_such}: the module has no such name"),
        ({"json": "__name__"}, "the module has something of this name that cannot be called"),
        ("planetary_komputer", "no provider has this name: write planetary_computer, earthdata, or the module"),
        ({"a": "b", "c": "d"}, "credentials are not understood: write planetary_computer"),
        ({"a b": "c"}, "do not name a module and a function of Python"),
        (5, "credentials are not understood"),
    ],
)
def test_invalid_credentials_are_refused_before_any_request(credentials: Any, sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        create_backend(credentials=credentials)
    assert sentence in str(caught.value)


def test_two_ways_to_open_files_are_one_too_many() -> None:
    with pytest.raises(SpecError, match="give one of them"):
        create_backend(dict, credentials="earthdata")


def test_a_spec_names_credentials_and_refuses_tokens() -> None:
    spec = ra.CollectionSpec.of(path="t.parquet", credentials=OWN)
    assert spec.credentials == OWN
    plain = ra.CollectionSpec.of(path="t.parquet")
    assert plain.content_hash != spec.content_hash
    with pytest.raises(SpecError, match=r"^credentials: credentials are named, not given") as caught:
        ra.CollectionSpec.of(path="t.parquet", credentials="PLANTED")
    assert "PLANTED" not in str(caught.value)


def test_no_published_file_decides_which_code_runs(own: Path, server: RangeServer, tmp_path: Path) -> None:
    own.write_text("def open_place(place): return {'headers': {'Authorization': 'Bearer PLANTED'}}\n")
    server.objects["/a.tif"] = body = tiff_bytes()
    table = record_table(["a"], {"B02": [f"{server.url}/a.tif"]}, outline=footprint(body))
    pq.write_table(table, tmp_path / "t.parquet")
    spec = ra.CollectionSpec.of(
        path=str(tmp_path / "t.parquet"), name="t", workspace_dir=str(tmp_path), enrich_cog=True, credentials=OWN
    )
    ra.build(spec)
    published = tmp_path / "t_records"
    with pytest.raises(SpecError, match=r"not imported on the word of a file: allow it by load\(\.\.\., credentials="):
        ra.load(published).get_numpy(footprint(body), bands="B02")
    assert ra.load(published).subset(bbox=(-180, -90, 180, 90)).to_table().num_rows == 1
    collection = ra.load(published, credentials=OWN)
    server.reset()
    assert collection.get_numpy(footprint(body), bands="B02").any()
    assert {headers.get("Authorization") for headers in server.headers} == {"Bearer PLANTED"}
    for file in published.rglob("*.parquet"):
        assert b"PLANTED" not in file.read_bytes()


# --- tokens -----------------------------------------------------------------------------------------------------------


class Issuing:
    """Gives tokens that are valid for a hundred seconds, until a test stops it."""

    name, remedy = "test", "none"

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.asked = 0
        self.fails: IssuerError | None = None

    def scope(self, url: str) -> str | None:
        return url

    def fetch(self, scope: str) -> Token:
        self.asked += 1
        if self.fails is not None:
            raise self.fails
        return Token(query=f"sig={self.asked}", expires_at=datetime.fromtimestamp(self.clock() + 100, UTC))

    def is_login(self, host: str) -> bool:
        return False


def test_a_token_is_renewed_before_it_expires_and_serves_until_then() -> None:
    now = [1000.0]
    issuer = Issuing(lambda: now[0])
    tokens = Tokens(issuer, lambda: now[0])

    def get() -> str:
        return asyncio.run(tokens.get("a")).query

    def settled() -> None:
        """Wait until the thread that fetches a token has ended."""
        for thread in threading.enumerate():
            if thread.name == "rasteret-assets-token":
                thread.join()

    assert [get(), get()] == ["sig=1", "sig=1"]
    now[0] += 60
    assert get() == "sig=1"  # its successor is asked for meanwhile
    settled()
    assert get() == "sig=2"
    now[0] += 60
    issuer.fails = IssuerError("closed today", passing=True)
    assert get() == "sig=2"
    settled()
    assert [get(), get(), issuer.asked] == ["sig=2", "sig=2", 3]
    now[0] += 60
    with pytest.raises(IssuerError, match="closed today"):
        get()
    issuer.fails = None
    now[0] += 2
    assert get() == "sig=5"


def test_a_refusal_is_asked_for_once_a_minute() -> None:
    now = [1000.0]
    issuer = Issuing(lambda: now[0])
    issuer.fails = IssuerError("no account")
    tokens = Tokens(issuer, lambda: now[0])
    for seconds, asked in ((0, 1), (30, 1), (31, 2)):
        now[0] += seconds
        with pytest.raises(IssuerError, match="no account"):
            asyncio.run(tokens.get("a"))
        assert issuer.asked == asked


def test_a_refusal_of_another_token_is_asked_for_once_a_minute() -> None:
    now = [1000.0]
    issuer = Issuing(lambda: now[0])
    tokens = Tokens(issuer, lambda: now[0])
    token = asyncio.run(tokens.get("a"))
    issuer.fails = IssuerError("the account is closed")
    for _ in range(3):
        with pytest.raises(IssuerError, match="the account is closed"):
            asyncio.run(tokens.another("a", token))
    assert issuer.asked == 2
    now[0] += 61
    issuer.fails = None
    assert asyncio.run(tokens.another("a", token)).query == "sig=3"


# --- requester pays ---------------------------------------------------------------------------------------------------


@pytest.fixture
def paid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: RangeServer) -> RangeServer:
    """A server in S3's place that demands that the requester pays."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    server.objects["/usgs-landsat/a.tif"] = tiff_bytes()
    server.fault = lambda path, before: None if "requester" in set(server.headers[-1].values()) else "403"
    return server


def test_a_requester_who_pays_reads_pixels_too(paid: RangeServer, tmp_path: Path) -> None:
    body = paid.objects["/usgs-landsat/a.tif"]
    table = record_table(["a"], {"red": ["https://landsatlook.example/a.tif"]}, outline=footprint(body))
    pq.write_table(table, tmp_path / "t.parquet")
    cloud = ra.CloudConfig(
        "aws", requester_pays=True, region="us-west-2",
        url_patterns={"https://landsatlook.example/": "s3://usgs-landsat/"},
    )  # fmt: skip
    spec = ra.CollectionSpec.of(
        path=str(tmp_path / "t.parquet"), name="t", workspace_dir=str(tmp_path), enrich_cog=True, cloud_config=cloud
    )
    assert ra.build(spec).totals["headers_fetched"] == 1
    published = tmp_path / "t_records"
    with pytest.raises(AccessDeniedError, match="check credentials, requester pays and region"):
        ra.load(published).get_numpy(footprint(body), bands="red")
    pixels = ra.load(published, cloud_config=cloud).get_numpy(footprint(body), bands="red")
    assert pixels.any()
    assert ra.load(published).get_numpy(footprint(body), bands="red", cloud_config=cloud).any()
