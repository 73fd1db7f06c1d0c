"""What one and two Celery workers take, on Postgres, Redis and S3 as in production, beside the library by itself.

18 months of 30 records with 4 bands each: 2160 headers, whose server takes 20 ms for an answer. Table and collection
lie on S3 (moto's server); everything else is ``examples/celery`` as it is shipped. Wall times are printed: one worker
has all months in one run and should take at most 3 times what the library does; two have half of them each and should
take at most 0.65 of one. ``WORKER_MONTHS`` makes it shorter.

Postgres' log tells how many connections the workers and their runs opened.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import boto3
import dagster as dg
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import yaml

from rasteret_assets import CollectionSpec, build
from tests.e2e.deployment import Deployment, deployment
from tests.support.celery import EXAMPLE, Workers
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer
from tests.support.services import INSTALL, POSTGRES_LOG, missing, services

MONTHS = int(os.environ.get("WORKER_MONTHS", "18"))
RECORDS, BANDS = 30, ["B02", "B03", "B04", "B08"]
KEYS = [f"{2021 + month // 12}-{month % 12 + 1:02d}" for month in range(MONTHS)]
BUCKET = "workers"
APPLICATION = "workers"
ANSWER_SECONDS = 0.02

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {', '.join(missing())}; {INSTALL}"),
    pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Task name 'execute_job':celery.exceptions.DuplicateTaskNameWarning"),
]


def table(server: RangeServer, months: list[str]) -> pa.Table:
    """Records of some months, whose files the server has."""
    tiff = tiff_bytes()
    ids = [f"{month}-{number}" for month in months for number in range(RECORDS)]
    server.objects |= {f"/{one}-{band}.tif": tiff for one in ids for band in BANDS}
    times = [datetime.fromisoformat(f"{month}-05").replace(tzinfo=UTC) for month in months for _ in range(RECORDS)]
    hrefs = {band: [f"{server.url}/{one}-{band}.tif" for one in ids] for band in BANDS}
    return record_table(ids, hrefs, datetimes=times)


def spec(name: str, source: str, workspace: str) -> dict[str, object]:
    """The declaration of a collection."""
    return {
        "name": name, "path": f"s3://{BUCKET}/{source}.parquet", "workspace_dir": f"s3://{BUCKET}/{workspace}",
        "enrich_cog": True,
    }  # fmt: skip


def published(name: str, workspace: str) -> dict[str, str]:
    """The ETag of every published file, by its path in the collection."""
    client = boto3.client("s3")
    prefix = f"{workspace}/{name}_records/"
    try:
        objects = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix)["Contents"]
        return {item["Key"].removeprefix(prefix): item["ETag"] for item in objects if item["Key"].endswith(".parquet")}
    finally:
        client.close()


def timed(deployed: Deployment, name: str, months: list[str], months_per_run: int) -> float:
    """Seconds from the submission of runs until the last has ended."""
    deployed.instance.add_dynamic_partitions(f"{name}_months", months)
    start = time.monotonic()
    groups = [months[first : first + months_per_run] for first in range(0, len(months), months_per_run)]
    runs = [deployed.submit(f"{name}_build", group) for group in groups]
    deployed.step_until("all runs", lambda: all(deployed.status(run) in {"SUCCESS", "FAILURE"} for run in runs))
    assert {deployed.status(run) for run in runs} == {"SUCCESS"}
    return time.monotonic() - start


def connections_opened(log: str) -> int:
    """Connections to Postgres that Celery workers and their runs have opened so far."""
    return Path(log).read_text().count(f"application_name={APPLICATION}")


@contextmanager
def running(workers: Workers, deployed: Deployment) -> Iterator[None]:
    """Workers that have built something before, as those of a cluster have."""
    try:
        workers.start()
        deployed.step_until("the workers", lambda: workers.are_ready)
        timed(deployed, "warm", KEYS[: workers.count], 1)
        yield
    finally:
        workers.kill()


def test_workers_beside_the_library(tmp_path: Path, server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.fault = lambda path, before: time.sleep(ANSWER_SECONDS)
    (tmp_path / "collections").mkdir()
    (tmp_path / "home").mkdir()
    with services(BUCKET) as variables:
        environment = {
            **variables, "DAGSTER_HOME": str(tmp_path / "home"),
            "RASTERET_ASSETS_COLLECTIONS": str(tmp_path / "collections"),
        }  # fmt: skip
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        store, _ = pafs.FileSystem.from_uri(f"s3://{BUCKET}")
        for name, months in (("all", KEYS), ("few", KEYS[:2])):
            pq.write_table(table(server, months), f"{BUCKET}/{name}.parquet", filesystem=store)
        for name in ("one", "two", "warm"):
            text = yaml.safe_dump(spec(name, "few" if name == "warm" else "all", "graph"))
            (tmp_path / "collections" / f"{name}.yaml").write_text(text)
        seconds, asked, opened = {}, {}, {}
        for name in ("one", "two"):  # a collection's files name it
            server.reset()
            start = time.monotonic()
            build(CollectionSpec.of(**spec(name, "all", "library")))
            seconds["library"], asked["library"] = time.monotonic() - start, len(server.requests)
        (tmp_path / "home" / "dagster.yaml").write_text((EXAMPLE / "dagster.yaml").read_text())
        with (
            dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance,
            deployment(instance, environment) as deployed,
        ):
            for name, count in (("one", 1), ("two", 2)):
                with running(
                    Workers(count, tmp_path, None, {**os.environ, **environment, "PGAPPNAME": APPLICATION}), deployed
                ):
                    server.reset()
                    before = connections_opened(environment[POSTGRES_LOG])
                    seconds[name] = timed(deployed, name, KEYS, -(-MONTHS // count))
                    opened[name] = connections_opened(environment[POSTGRES_LOG]) - before
                    asked[name] = len(server.requests)
        files = {name: [published(name, where) for where in ("graph", "library")] for name in ("one", "two")}
    print(
        f"{MONTHS} months, {MONTHS * RECORDS * len(BANDS)} headers, load {os.getloadavg()[1]:.1f}: "
        + ", ".join(f"{name} {took:.1f} s" for name, took in seconds.items())
        + f"; one worker takes {seconds['one'] / seconds['library']:.2f} of the library (bar 3), "
        f"two {seconds['two'] / seconds['one']:.2f} of one (bar 0.65); "
        f"workers opened {opened['one']} and {opened['two']} connections to Postgres",
        flush=True,
    )
    assert asked == dict.fromkeys(seconds, MONTHS * RECORDS * len(BANDS))
    for of_graph, of_library in files.values():
        assert len(of_library) == MONTHS
        assert of_graph == of_library
