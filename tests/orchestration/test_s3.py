"""Source, stages, published collection and rasters may all lie on S3."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import boto3
import dagster as dg
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from rasteret_assets import CollectionSpec
from rasteret_assets.dagster import (
    FilesystemResource,
    StorageBackendResource,
    build_definitions,
    materialize_collection,
)
from rasteret_assets.orchestration.asset_graph.graph_partitions import selection_tags
from tests.support.rasters import record_table, tiff_bytes
from tests.support.s3 import requests_seen


@pytest.fixture
def settings() -> Iterator[dict[str, str]]:
    """Return fields of the resources for an S3 server on loopback."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield {
            "endpoint_url": f"http://{host}:{port}", "region_name": "us-east-1",
            "aws_access_key_id": "key", "aws_secret_access_key": "secret",
        }  # fmt: skip
    finally:
        server.stop()


def test_a_collection_lives_on_s3(settings: dict[str, str], instance: dg.DagsterInstance, monkeypatch) -> None:
    monkeypatch.setenv("S3_SECRET", settings.pop("aws_secret_access_key"))
    client = boto3.client("s3", **settings, aws_secret_access_key="secret")
    client.create_bucket(Bucket="scenes")
    ids = ["a", "b", "c"]
    for number, name in enumerate(ids):
        client.put_object(Bucket="scenes", Key=f"cogs/{name}.tif", Body=tiff_bytes(seed=number))
    buffer = io.BytesIO()
    pq.write_table(record_table(ids, {"B02": [f"s3://scenes/cogs/{name}.tif" for name in ids]}), buffer)
    client.put_object(Bucket="scenes", Key="records/items.parquet", Body=buffer.getvalue())

    fields = {**settings, "aws_secret_access_key": dg.EnvVar("S3_SECRET")}
    resources = {
        "rasteret_filesystem": FilesystemResource(**fields),
        "rasteret_backend": StorageBackendResource(**fields),
    }
    spec = CollectionSpec.of(path="s3://scenes/records", name="s2", workspace_dir="s3://scenes/out", enrich_cog=True)
    counts = materialize_collection(spec, instance, resources=resources)
    assert {key: stages["band_metadata"]["headers_fetched"] for key, stages in counts.items()} == {
        "2024-04": 1, "2024-05": 1, "2024-06": 1,
    }  # fmt: skip
    assert counts["2024-04"]["collection"]["path"] == "s3://scenes/out/s2_records/year=2024/month=4/part-0.parquet"
    again = materialize_collection(spec, instance, resources=resources, keys=["2024-05"])
    assert sum(stages["band_metadata"]["requests"] for stages in again.values()) == 0

    keys = [item["Key"] for item in client.list_objects_v2(Bucket="scenes", Prefix="out/")["Contents"]]
    assert [key for key in keys if key.startswith("out/s2_records/")] == [
        f"out/s2_records/year=2024/month={month}/part-0.parquet" for month in (4, 5, 6)
    ]
    body = client.get_object(Bucket="scenes", Key=keys[0])["Body"].read()
    assert pq.read_table(io.BytesIO(body))["B02_metadata"].null_count == 0

    client.delete_object(Bucket="scenes", Key="records/items.parquet")
    buffer = io.BytesIO()
    pq.write_table(record_table(ids[:1], {"B02": ["s3://scenes/cogs/a.tif"]}), buffer)
    client.put_object(Bucket="scenes", Key="records/items.parquet", Body=buffer.getvalue())
    materialize_collection(spec, instance, resources=resources)
    left = client.list_objects_v2(Bucket="scenes", Prefix="out/s2_records/")["Contents"]
    # Without "folder" objects, because pyarrow leaves empty ones after a deletion.
    assert [item["Key"] for item in left if item["Size"]] == ["out/s2_records/year=2024/month=4/part-0.parquet"]


# A bucket for each test, because moto keeps the buckets of all its servers in one place.
def test_the_sensor_and_the_compute_logs_are_on_s3_too(settings: dict[str, str], tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", settings["aws_access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", settings["aws_secret_access_key"])
    client = boto3.client("s3", **settings)
    client.create_bucket(Bucket="watched")

    def write(ids: list[str]) -> None:
        buffer = io.BytesIO()
        pq.write_table(record_table(ids, {"B02": [f"s3://watched/cogs/{name}.tif" for name in ids]}), buffer)
        client.put_object(Bucket="watched", Key="records/items.parquet", Body=buffer.getvalue())

    for number, name in enumerate("abcd"):
        client.put_object(Bucket="watched", Key=f"cogs/{name}.tif", Body=tiff_bytes(seed=number))
    write(["a", "b", "c"])
    logs = {
        "module": "dagster_aws.s3.compute_log_manager", "class": "S3ComputeLogManager",
        "config": {
            "bucket": "watched", "prefix": "logs", "local_dir": str(tmp_path / "captured"),
            "endpoint_url": settings["endpoint_url"], "region": settings["region_name"],
        },
    }  # fmt: skip
    resources = {
        "rasteret_filesystem": FilesystemResource(**settings),
        "rasteret_backend": StorageBackendResource(**settings),
    }
    spec = CollectionSpec.of(path="s3://watched/records", name="s2", workspace_dir="s3://watched/out", enrich_cog=True)
    definitions = build_definitions([spec], resources=resources)

    def tick(instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorResult:
        context = dg.build_sensor_context(
            instance=instance, cursor=cursor, definitions=definitions,
            resources={"rasteret_filesystem": resources["rasteret_filesystem"]},
        )  # fmt: skip
        return definitions.resolve_sensor_def("s2_refresh")(context)

    with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"compute_logs": logs}) as instance:
        first = tick(instance, None)
        for request in first.dynamic_partitions_requests:
            instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        (request,) = first.run_requests
        assert definitions.resolve_job_def("s2_build").execute_in_process(instance=instance, tags=request.tags).success
        second = tick(instance, first.cursor)
        assert not second.run_requests
        write(["a", "b", "c", "d"])
        (changed,) = tick(instance, second.cursor).run_requests
        assert changed.partition_key == "2024-04"
    written = [item["Key"] for item in client.list_objects_v2(Bucket="watched", Prefix="logs/")["Contents"]]
    assert any(key.endswith(".err") for key in written)


def test_a_partition_of_a_range_costs_few_requests(settings: dict[str, str], instance: dg.DagsterInstance) -> None:
    """Count requests on the object store and rows of Dagster's event log, for eighteen months in one run."""
    months = [f"{2023 + number // 12}-{number % 12 + 1:02}" for number in range(18)]
    client = boto3.client("s3", **settings)
    client.create_bucket(Bucket="counted")
    client.put_object(Bucket="counted", Key="cogs/a.tif", Body=tiff_bytes())
    ids = [f"{month}-{number}" for month in months for number in range(2)]
    hrefs = {"B02": [f"s3://counted/cogs/a.tif?{name}" for name in ids]}
    times = [datetime.fromisoformat(f"{month}-05T00:00:00+00:00") for month in months for _ in range(2)]
    buffer = io.BytesIO()
    pq.write_table(record_table(ids, hrefs, datetimes=times), buffer)
    client.put_object(Bucket="counted", Key="records/items.parquet", Body=buffer.getvalue())
    resources = {
        "rasteret_filesystem": FilesystemResource(**settings),
        "rasteret_backend": StorageBackendResource(**settings),
    }
    spec = CollectionSpec.of(path="s3://counted/records", name="c", workspace_dir="s3://counted/out", enrich_cog=True)
    instance.add_dynamic_partitions("c_months", months)
    job = build_definitions([spec], resources=resources).resolve_job_def("c_build")
    with requests_seen() as seen:
        result = job.execute_in_process(instance=instance, tags=selection_tags(months))
    assert result.success
    asked = [request for request in seen if "/counted/cogs/" not in request]
    assert len(asked) <= 60 * len(months), Counter(asked).most_common(20)
    assert len(instance.all_logs(result.run_id)) <= 12 * len(months)
