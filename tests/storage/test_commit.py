"""A partition is published so that a build that slept never undoes a later one, and a damaged state is built again."""

from __future__ import annotations

import contextvars
import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from rasteret_assets.errors import CollectionError, LockLostError
from rasteret_assets.storage.workspace import Workspace, holds
from rasteret_assets.storage.workspace.commit import (
    LOST,
    FileFacts,
    announce_new,
    commit,
    replace_published,
    unpublish,
    verified_states,
)
from rasteret_assets.storage.workspace.conditional import ObjectTag
from rasteret_assets.storage.workspace.placed_files import WrittenFile
from tests.storage.conftest import Place
from tests.support.s3 import requests_seen

KEY = "2024-05"
OLD, STALE, NEWER = (pa.table({"x": list(range(rows))}) for rows in (1, 2, 3))


@pytest.fixture
def stored(on_s3: Place) -> Workspace:
    fs, folder = on_s3
    return Workspace.at(f"s3://{folder}/s2_records", fs)


@pytest.fixture
def workspace(on_disk_or_s3: Place) -> Workspace:
    fs, folder = on_disk_or_s3
    return Workspace.at(f"{folder}/s2_records", fs)


def publish(workspace: Workspace, table: pa.Table) -> None:
    """Publish a partition as a build does at its end."""

    def put(beside: str, written: WrittenFile) -> None:
        replace_published(workspace, KEY, beside, FileFacts.of(table.num_rows, written))

    with workspace.lock(KEY):
        with workspace.writer(workspace.published_file(KEY), table.schema, put=put) as writer:
            writer.write(table)
        commit(workspace, KEY, FileFacts.of(table.num_rows, writer.written), {"source_version": str(table.num_rows)})


def assert_published(workspace: Workspace, table: pa.Table) -> None:
    state = workspace.states()[KEY]
    found = workspace.read_table(workspace.published_file(KEY))
    assert found == table
    assert (state["source_version"], state["rows"]) == (str(table.num_rows), table.num_rows)
    assert "next" not in state
    assert LOST not in verified_states(workspace)[KEY]


def test_a_partition_is_published_and_taken_away(workspace: Workspace) -> None:
    for table in (OLD, NEWER, STALE):
        publish(workspace, table)
        assert_published(workspace, table)
    unpublish(workspace, KEY)
    assert workspace.states() == {}
    assert not workspace.exists()
    unpublish(workspace, KEY)
    publish(workspace, OLD)
    assert_published(workspace, OLD)


def test_publishing_takes_few_requests(stored: Workspace) -> None:
    publish(stored, OLD)
    file, state, lock = stored.published_file(KEY), stored.state_file(KEY), f"{stored.stages}/locks/{KEY}"
    with requests_seen() as asked:
        publish(stored, NEWER)
    assert asked == [
        f"GET /{lock}", f"PUT /{lock}",
        f"HEAD /{file}", f"GET /{state}", f"PUT /{state}", f"PUT /{file}", f"PUT /{state}",
        f"PUT /{lock}",
    ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Interrupted(Workspace):
    """A workspace whose process stops before or after one step of publishing."""

    moment: tuple[str, int, str]
    meanwhile: Callable[[], None]
    steps: list[str]

    def _step(self, name: str, run: Callable[[], Any]) -> Any:
        step, number, side = self.moment
        self.steps.append(name)
        now = name == step and self.steps.count(name) == number
        if now and side == "before":
            self.meanwhile()
        done = run()
        if now and side == "after":
            self.meanwhile()
        return done

    def tag_of(self, path: str) -> Any:
        return self._step("tag", lambda: super(Interrupted, self).tag_of(path))

    def read_tagged(self, path: str) -> Any:
        return self._step("read", lambda: super(Interrupted, self).read_tagged(path))

    def swap_json(self, path: str, document: Any, seen: ObjectTag | None) -> Any:
        return self._step("swap", lambda: super(Interrupted, self).swap_json(path, document, seen))

    def put_over(self, beside: str, path: str, seen: ObjectTag | None) -> Any:
        return self._step("put", lambda: super(Interrupted, self).put_over(beside, path, seen))


MOMENTS = [
    (step, number, side)
    for step, number in [("tag", 1), ("read", 1), ("swap", 1), ("put", 1), ("swap", 2)]
    for side in ("before", "after")
]


@pytest.mark.parametrize("moment", MOMENTS, ids=[f"{side}-{step}-{number}" for step, number, side in MOMENTS])
@pytest.mark.parametrize("deaf", [False, True], ids=["asks", "deaf"])
def test_a_build_that_slept_never_undoes_a_later_build(
    stored: Workspace, moment: tuple[str, int, str], deaf: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at any step, a build finds its next step refused once another one has published.

    With ``deaf`` the clocks of the machine stood still too, so that the build does not know that it slept.
    """
    publish(stored, OLD)
    monkeypatch.setattr(holds, "RENEWED_EVERY_S", 1000.0)

    def meanwhile() -> None:
        monkeypatch.setattr(holds, "DEAD_AFTER_S", -2.0)
        # Another process: it does not share the locks of this one.
        in_another_context(lambda: publish(stored, NEWER))
        monkeypatch.setattr(holds, "DEAD_AFTER_S", 1000.0 if deaf else 0.0)

    slept = Interrupted(
        fs=stored.fs, stages=stored.stages, published=stored.published, moment=moment, meanwhile=meanwhile, steps=[]
    )
    with ExitStack() as stack:
        if moment != ("swap", 2, "after"):  # then it had done its last step
            stack.enter_context(pytest.raises(LockLostError, match=f"partition {KEY} of .* was taken over"))
        publish(slept, STALE)
    assert_published(stored, NEWER)
    monkeypatch.setattr(holds, "DEAD_AFTER_S", 1000.0)
    publish(stored, OLD)
    assert_published(stored, OLD)


@pytest.mark.parametrize("moment", MOMENTS[:-1], ids=[f"{side}-{step}-{number}" for step, number, side in MOMENTS[:-1]])
def test_a_build_that_slept_never_brings_back_what_a_later_build_unpublished(
    stored: Workspace, moment: tuple[str, int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is deleted with the partition, and with it the number of the later holder."""
    publish(stored, OLD)
    monkeypatch.setattr(holds, "RENEWED_EVERY_S", 1000.0)

    def meanwhile() -> None:
        monkeypatch.setattr(holds, "DEAD_AFTER_S", -2.0)
        in_another_context(lambda: unpublish(stored, KEY))
        monkeypatch.setattr(holds, "DEAD_AFTER_S", 1000.0)

    slept = Interrupted(
        fs=stored.fs, stages=stored.stages, published=stored.published, moment=moment, meanwhile=meanwhile, steps=[]
    )
    with pytest.raises(LockLostError):
        publish(slept, STALE)
    assert stored.states() == {}
    assert not stored.exists()


def test_a_build_that_lost_one_partition_publishes_no_other(stored: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds, "RENEWED_EVERY_S", 1000.0)
    with stored.lock("2024-04"):
        monkeypatch.setattr(holds, "DEAD_AFTER_S", -2.0)
        with stored.lock(KEY):
            in_another_context(lambda: take(stored, "2024-04"))
            monkeypatch.setattr(holds, "DEAD_AFTER_S", 1000.0)
            with pytest.raises(LockLostError, match="2024-04"):
                publish(stored, STALE)
    assert not stored.exists()


def take(workspace: Workspace, key: str) -> None:
    with workspace.lock(key):
        pass


def in_another_context(run: Callable[[], None]) -> None:
    contextvars.Context().run(run)


def test_a_later_holder_that_has_done_nothing_yet_publishes_over_the_one_that_slept(
    stored: Workspace,
) -> None:
    """The process that slept puts its file after the later holder looked up the tag of the old file."""
    publish(stored, OLD)
    later = Interrupted(
        fs=stored.fs, stages=stored.stages, published=stored.published, moment=("put", 1, "before"),
        meanwhile=lambda: put_late(stored, STALE), steps=[],
    )  # fmt: skip
    publish(later, NEWER)
    assert later.steps.count("put") == 2
    assert_published(stored, NEWER)


def put_late(workspace: Workspace, table: pa.Table) -> None:
    """Put a file as a process does that passed all checks before it slept."""
    workspace.write_table(workspace.published_file(KEY), table)


def test_a_lock_that_was_deleted_blocks_nobody(workspace: Workspace) -> None:
    """The numbers of the lock begin anew, below the number in the state."""
    for table in (OLD, NEWER):
        publish(workspace, table)
    workspace.remove(f"{workspace.stages}/locks/{KEY}")
    publish(workspace, STALE)
    assert_published(workspace, STALE)
    fence = workspace.states()[KEY]["fence"]
    publish(workspace, OLD)
    assert workspace.states()[KEY]["fence"] > fence


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "null", '{"rows": 1}', '{"source_version": 1}', '{"source_version": "", "next": 5}',
             '{"source_version": "", "failures": null}', "[" * 100_000],
)  # fmt: skip
def test_a_state_of_an_unknown_form_is_logged_and_replaced(
    workspace: Workspace, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    publish(workspace, OLD)
    with workspace.fs.open_output_stream(workspace.state_file(KEY)) as sink:
        sink.write(text.encode())
    if text != "null":  # which says that there is none
        with caplog.at_level(logging.WARNING):
            assert workspace.states()[KEY] == {"source_version": "", LOST: True}
        assert f"{KEY}.json" in caplog.text
    publish(workspace, NEWER)
    assert_published(workspace, NEWER)


def test_a_state_of_a_newer_version_is_refused(workspace: Workspace) -> None:
    publish(workspace, OLD)
    state = workspace.states()[KEY]
    workspace.write_json(workspace.state_file(KEY), {**state, "format": 2})
    for call in (workspace.states, lambda: publish(workspace, NEWER), lambda: verified_states(workspace)):
        with pytest.raises(CollectionError, match=rf"{KEY}\.json was written by a newer version .*upgrade"):
            call()
    workspace.write_json(workspace.state_file(KEY), state)
    assert_published(workspace, OLD)


def test_announcing_under_the_locks_of_a_build(workspace: Workspace) -> None:
    """Threads that announce partitions hold the locks of the build too."""
    keys = [f"2024-{month:02}" for month in range(1, 5)]
    with ExitStack() as stack:
        for key in keys:
            stack.enter_context(workspace.lock(key))
        announce_new(workspace, keys)
    assert all(state["next"] is None for state in workspace.states().values())


def test_a_derived_document_follows_what_it_is_derived_from(workspace: Workspace) -> None:
    """Two processes derive a document at once, and the one that read older documents does not win."""
    path, seen = f"{workspace.stages}/all.json", ["a"]

    def derived() -> dict[str, list[str]]:
        found = list(seen)
        if len(seen) == 1 and not workspace.is_local:  # on a disk the other would wait
            seen.append("b")
            workspace.derive_json(path, derived)
        return {"seen": found}

    workspace.derive_json(path, derived)
    assert workspace.read_json(path) == {"seen": seen}
    workspace.derive_json(path, lambda: None)
    assert workspace.read_json(path) is None


def test_states_are_synced_json(tmp_path: Path) -> None:
    workspace = Workspace.at(str(tmp_path / "s2_records"))
    publish(workspace, OLD)
    state = json.loads(Path(workspace.state_file(KEY)).read_text())
    assert (state["format"], state["fence"]) == (1, 1)
