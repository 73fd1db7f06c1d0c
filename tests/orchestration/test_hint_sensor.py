"""Messages of a queue start a comparison at once, and partitions that differ are built, whatever messages were lost."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from rasteret_assets import CollectionSpec
from rasteret_assets.dagster import FilesystemResource, build_definitions
from rasteret_assets.errors import SpecError
from rasteret_assets.orchestration.triggers._hints import Hint, MessageError, hint_of
from rasteret_assets.orchestration.triggers._message_queue import open_queue
from rasteret_assets.source import stored
from tests.orchestration import scenes
from tests.orchestration.scenes import Scenes, launch
from tests.support.server import RangeServer
from tests.support.sqs import Queue, queue_server
from tests.support.stac import COLLECTION, make_item, serve_stac


def item(name: str, datetime: str | None = "2024-02-05T10:00:00Z", **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": name, "collection": "scenes", "geometry": None,
        "properties": {"datetime": datetime, **properties}, "assets": {}, "links": [],
    }  # fmt: skip


def notification(key: str = "items.parquet") -> dict[str, Any]:
    record = {
        "eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": "b"}, "object": {"key": key, "size": 1}},
    }  # fmt: skip
    return {"Records": [record]}


def wrapped(message: object) -> dict[str, Any]:
    """As SNS delivers a message to a queue, unless raw delivery is chosen."""
    return {
        "Type": "Notification", "MessageId": "m", "TopicArn": "arn:aws:sns:us-west-2:1:items",
        "Message": json.dumps(message), "Timestamp": "2024-02-05T10:00:00.000Z",
    }  # fmt: skip


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[Queue]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    with queue_server() as made:
        yield made


@pytest.fixture
def heard(server: RangeServer, tmp_path: Path, queue: Queue) -> Scenes:
    """A published collection that has a queue."""
    scenes = Scenes(server, tmp_path, graph={"events_queue": queue.url}).write()
    scenes.build()
    return scenes


tick = partial(scenes.tick, sensor="scenes_events")


def requested(result: dg.SensorResult) -> list[str | None]:
    return [request.partition_key or request.job_name for request in result.run_requests or []]


def test_there_is_a_sensor_only_where_there_is_a_queue(heard: Scenes, server: RangeServer, tmp_path: Path) -> None:
    plain = Scenes(server, tmp_path / "plain")
    names = {sensor.name for sensor in plain.definitions().sensors or ()}
    assert "scenes_events" not in names
    assert "scenes_events" in {sensor.name for sensor in heard.definitions().sensors or ()}


@pytest.mark.parametrize(
    "message",
    [
        item("e"),
        wrapped(item("e")),
        wrapped(wrapped(item("e"))),
        {"features": [item("e")], "type": "FeatureCollection"},
    ],
)
def test_a_message_about_an_item_updates_the_profile_of_its_partition_and_is_deleted(
    heard: Scenes, instance: dg.DagsterInstance, queue: Queue, message: dict[str, Any]
) -> None:
    heard.change(e=2, a=3)
    queue.send(message)
    first = tick(heard, instance)
    assert requested(first) == ["2024-02"]
    assert queue.counts == (0, 1)  # until it is known that Dagster has the request
    assert all(run.success for run in launch(heard, instance, first))
    second = tick(heard, instance, first.cursor)
    assert (requested(second), queue.counts) == ([], (0, 0))
    assert second.skip_reason.skip_message == "the queue is empty"


@pytest.mark.parametrize(
    "message",
    [
        notification(),
        wrapped(notification()),
        {"detail-type": "Object Created", "detail": {"bucket": {"name": "b"}, "object": {"key": "items.parquet"}}},
    ],
)
def test_a_message_about_a_file_without_a_partition_updates_the_profile_of_all(
    heard: Scenes, instance: dg.DagsterInstance, queue: Queue, message: dict[str, Any]
) -> None:
    heard.change(e=2, f=7)
    queue.send(message)
    result = tick(heard, instance)
    assert requested(result) == ["scenes_build"]  # of the neighbours 2024-02 and 2024-07
    assert instance.get_dynamic_partitions("scenes_months") == ["2024-01", "2024-02", "2024-07", "undated"]
    assert all(run.success for run in launch(heard, instance, result))
    assert [path for path in heard.published() if "month=7/" in path]
    assert requested(tick(heard, instance, result.cursor)) == []


@pytest.mark.parametrize("way", ["topic", "raw topic", "bucket"])
def test_messages_that_sns_and_s3_write_are_understood(
    heard: Scenes, instance: dg.DagsterInstance, queue: Queue, way: str
) -> None:
    heard.change(e=2)
    if way == "bucket":
        queue.notify("catalog/items.parquet")
    else:
        queue.publish(item("e"), raw=way == "raw topic")
    result = tick(heard, instance)
    assert requested(result) == ["2024-02"]
    tick(heard, instance, result.cursor)
    assert queue.counts == (0, 0)


def test_messages_about_published_items_build_nothing(
    heard: Scenes, instance: dg.DagsterInstance, queue: Queue
) -> None:
    queue.send(item("c"), item("c"), item("old", "1999-01-01T00:00:00Z"))
    first = tick(heard, instance)
    assert requested(first) == []
    assert first.skip_reason.skip_message == "3 messages name only partitions that are published as the source has them"
    tick(heard, instance, first.cursor)
    assert queue.counts == (0, 0)


STRANGE = [
    "not json", "5", "null", '"text"', "{}", "[[[[[[[[[[1]]]]]]]]]]", json.dumps({"Message": "PLANTED"}),
    json.dumps({"Message": 5}), json.dumps(item("a", "yesterday")), json.dumps({"Records": [{"s3": {}}]}),
    json.dumps({"type": "Feature"}), json.dumps(item("a") | {"properties": None}), "[" * 5000 + "]" * 5000,
]  # fmt: skip


def test_messages_that_are_not_understood_are_reported_and_deleted(
    heard: Scenes, instance: dg.DagsterInstance, queue: Queue, capfd: pytest.CaptureFixture[str]
) -> None:
    heard.change(e=2)
    queue.send(*STRANGE, item("e"))
    result = tick(heard, instance)
    assert requested(result) == ["2024-02"]
    told = "".join(capfd.readouterr())
    assert f"{len(STRANGE)} messages are not understood and report no change: " in told
    assert "PLANTED" not in told
    tick(heard, instance, result.cursor)
    assert queue.counts == (0, 0)


def test_a_test_message_of_the_queue_is_not_a_change(heard: Scenes, instance: dg.DagsterInstance, queue: Queue) -> None:
    heard.change(e=2)
    queue.send({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"})
    result = tick(heard, instance)
    assert result.skip_reason.skip_message == "1 messages report no change"
    tick(heard, instance, result.cursor)
    assert queue.counts == (0, 0)


def test_a_message_waits_while_its_partition_is_being_built(
    heard: Scenes, instance: dg.DagsterInstance, queue: Queue
) -> None:
    tick(heard, instance)
    instance.add_dynamic_partitions("scenes_months", ["2024-01", "2024-02", "undated"])
    job = heard.definitions().resolve_job_def("scenes_build")
    run = instance.create_run_for_job(job, tags={"dagster/partition": "2024-02"}, status=dg.DagsterRunStatus.STARTED)
    heard.change(e=2)
    queue.send(item("e"))
    result = tick(heard, instance)
    assert requested(result) == []
    assert result.skip_reason.skip_message == (
        "1 messages name partitions that are being built, and wait until their runs have ended"
    )
    assert json.loads(result.cursor)["heeded"] == []
    assert queue.counts == (0, 1)
    instance.report_run_canceled(run)
    queue.send(item("e"))  # as the first one, once it is seen again
    assert requested(tick(heard, instance, result.cursor)) == ["2024-02"]


def test_messages_wait_for_a_profile_that_is_too_large_for_a_tick(
    heard: Scenes, instance: dg.DagsterInstance, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "QUICK_BYTES", 0)
    heard.change(e=2)
    queue.send(item("e"))
    result = tick(heard, instance)
    assert requested(result) == ["scenes_look"]
    assert json.loads(result.cursor)["heeded"] == []
    assert queue.counts == (0, 1)


def test_a_queue_that_does_not_exist_is_reported_in_one_sentence(
    server: RangeServer, tmp_path: Path, queue: Queue, instance: dg.DagsterInstance
) -> None:
    scenes = Scenes(server, tmp_path, graph={"events_queue": f"{queue.url}-gone"}).write()
    with pytest.raises(SpecError, match=r"http\S+-gone cannot be used \(\S*NonExistentQueue\S*\): check graph"):
        tick(scenes, instance)
    scenes = Scenes(server, tmp_path, graph={"events_queue": "http://127.0.0.1:9/1/items"})
    with pytest.raises(SpecError, match=r"cannot be asked \(EndpointConnectionError\): check graph.events_queue"):
        tick(scenes, instance)
    settings = FilesystemResource(profile_name="of-nobody")
    unknown = r"cannot be asked \(ProfileNotFound\): check graph"
    with pytest.raises(SpecError, match=unknown), open_queue(queue.url, settings):
        pass


@pytest.mark.parametrize(
    "value",
    ["items", "https://me:secret@sqs.example/1/items", "https://sqs.example/1/items?a=b", "arn:aws:sqs:us-west-2:1:a"],
)
def test_an_address_that_is_not_of_a_queue_is_refused(value: str) -> None:
    with pytest.raises(SpecError, match=r"it is not the address of a queue: write such as https://sqs") as caught:
        CollectionSpec.of(path="t.parquet", graph={"events_queue": value})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "properties", "partition"),
    [
        ({}, {}, "2024-02"),
        ({"partition_by": "year"}, {}, "2024"),
        ({"partition_by": "day"}, {"datetime": "2024-03-01T00:30:00+01:00"}, "2024-02-29"),
        ({}, {"datetime": None}, "undated"),
        ({}, {"datetime": None, "start_datetime": "2023-01-01T00:00:00Z"}, "undated"),
        (
            {"interval_partition": "start_datetime"},
            {"datetime": None, "start_datetime": "2023-01-01T00:00:00Z"},
            "2023-01",
        ),
    ],
)
def test_the_partition_of_an_item(options: dict[str, Any], properties: dict[str, Any], partition: str) -> None:
    spec = CollectionSpec.of(path="t.parquet", name="t", **options)
    message = item("a")
    message["properties"] |= properties
    assert hint_of(json.dumps(message), spec) == Hint(partitions=frozenset({partition}))


@pytest.mark.parametrize("body", STRANGE)
def test_an_unknown_message_is_an_error_that_repeats_nothing_of_it(body: str) -> None:
    with pytest.raises(MessageError) as caught:
        hint_of(body, CollectionSpec.of(path="t.parquet", name="t"))
    assert "PLANTED" not in str(caught.value)


@pytest.mark.parametrize("seed", range(1))
def test_lost_doubled_and_reordered_messages_end_in_the_same_collection(
    heard: Scenes, instance: dg.DagsterInstance, queue: Queue, seed: int, tmp_path: Path, server: RangeServer
) -> None:
    chance, cursor, late = random.Random(seed), None, list[str]()
    months: dict[str, int] = {}
    for number in range(6):
        name, month = f"n{number % 4}", chance.randint(1, 4)
        months[name] = month
        heard.change(**{name: month})
        messages = [json.dumps(item(name, f"2024-{month:02}-05T00:00:00Z")), chance.choice(STRANGE)]
        # Some come late, some twice, some never.
        late += messages[: chance.randint(0, 2)]
        chance.shuffle(late)
        now, late = late[: chance.randint(0, 3)], late[2:]
        queue.send(*now, *now[: chance.randint(0, 2)])
        result = tick(heard, instance, cursor)
        cursor = result.cursor
        assert all(run.success for run in launch(heard, instance, result))
    # The refresh finds changes that no message told; here a notification that names no partition stands for it.
    queue.send(notification())
    while requested(result := tick(heard, instance, cursor)):
        cursor = result.cursor
        assert all(run.success for run in launch(heard, instance, result))
    tick(heard, instance, result.cursor)
    assert queue.counts == (0, 0)
    other = Scenes(server, tmp_path / "other")
    (tmp_path / "other").mkdir()
    other.months = dict(heard.months)
    other.write().build()
    assert heard.published() == other.published()


def test_messages_of_a_harvested_collection_have_their_windows_asked_for(
    instance: dg.DagsterInstance, queue: Queue, tmp_path: Path
) -> None:
    with serve_stac() as stac:
        stac.can = set()  # so that nothing else tells of an item that comes late
        stac.put(*(make_item(number) for number in range(200)))
        asked = {"stac_api": stac.url, "collections": [COLLECTION], "datetime": "2024-01/2024-03"}
        spec = CollectionSpec.of(
            name="scenes", workspace_dir=tmp_path, harvest=asked, graph={"events_queue": queue.url}
        )
        definitions = build_definitions([spec])

        def hear(cursor: str | None = None) -> dg.SensorResult:
            context = dg.build_sensor_context(
                instance=instance, cursor=cursor, definitions=definitions,
                resources={"rasteret_filesystem": FilesystemResource()},
            )  # fmt: skip
            return definitions.resolve_sensor_def("scenes_events")(context)

        def harvest(request: dg.RunRequest | None = None) -> dict[str, Any]:
            asked = request or dg.RunRequest(job_name="scenes_harvest")
            job = definitions.resolve_job_def(asked.job_name)
            assert job.execute_in_process(
                instance=instance, tags=asked.tags, partition_key=asked.partition_key
            ).success  # fmt: skip
            (record,) = instance.fetch_observations(dg.AssetKey(["scenes", "harvested_items"]), limit=1).records
            return {name: value.value for name, value in record.asset_observation.metadata.items()}

        harvest()
        late = make_item(900, datetime(2024, 2, 20, tzinfo=UTC))
        stac.put(late)
        assert harvest()["items_new"] == 0
        queue.send(late)
        heard = hear()
        (request,) = heard.run_requests
        assert (request.job_name, request.partition_key) == ("scenes_harvest_windows", "2024-02")
        found = harvest(request)
        assert (found["windows_asked"], found["items_new"]) == (1, 1)
        assert queue.counts == (0, 1)  # until it is known that Dagster has the request
        assert hear(heard.cursor).skip_reason.skip_message == "the queue is empty"
        assert queue.counts == (0, 0)

        queue.send(late)
        run = instance.create_run_for_job(
            definitions.resolve_job_def("scenes_harvest"), status=dg.DagsterRunStatus.STARTED
        )
        waiting = hear(heard.cursor)
        assert waiting.skip_reason.skip_message == "a run is harvesting the items; the messages wait until it has ended"
        instance.delete_run(run.run_id)
