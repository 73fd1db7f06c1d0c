"""The last look at a source saves reading what has not changed, and nothing else."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from rasteret_assets.columns import hashing
from rasteret_assets.source.open import open_source
from rasteret_assets.source.profiling import profile_source
from rasteret_assets.source.stored import load_profile
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.workspace import Workspace
from tests.support.rasters import record_table

#: A file's records: which id, and which of two contents.
RECORDS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), max_size=6)
CHANGES = st.lists(st.tuples(st.sampled_from("abc"), RECORDS), min_size=1, max_size=6)


def write(path: Path, records: Sequence[tuple[int, int]], version: int) -> None:
    """One file of the source; its version is in its size as well, as a rewrite within a clock tick would not show."""
    hrefs = [f"https://example.com/{content}/{number}.tif" for number, content in records]
    table = record_table([f"scene-{number}" for number, _ in records], {"B02": hrefs})
    pq.write_table(table.replace_schema_metadata({"version": "." * version}), path)


@given(changes=CHANGES)
@settings(max_examples=30)
def test_a_profile_updated_from_changed_files_equals_a_new_one(
    changes: list[tuple[str, list[tuple[int, int]]]],
) -> None:
    # One bit of a hash, so that ids that differ are mistaken for each other at first.
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(hashing, "_MARKED_BITS", 1):
        source = Path(folder) / "source"
        source.mkdir()
        workspace = Workspace.at(str(Path(folder) / "w" / "s2_records"))
        spec = CollectionSpec.of(path=source, name="s2")
        for version, (name, records) in enumerate(changes, 1):
            write(source / f"{name}.parquet", records, version)
            opened = open_source(spec.path, spec)
            assert load_profile(workspace, opened, spec) == profile_source(opened, spec)


def test_files_that_have_not_changed_are_not_read_again(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    workspace = Workspace.at(str(tmp_path / "w" / "s2_records"))
    spec = CollectionSpec.of(path=source, name="s2")
    for name in "ab":
        write(source / f"{name}.parquet", [(ord(name), 0)], 1)
    time.sleep(0.05)  # until a further write would have another time
    load_profile(workspace, open_source(spec.path, spec), spec)
    write(source / "b.parquet", [(ord("c"), 0), (ord("d"), 0)], 2)
    opened = open_source(spec.path, spec)
    # What is gone by now cannot be read.
    (source / "a.parquet").rename(tmp_path / "a.parquet")
    profile = load_profile(workspace, opened, spec)
    assert sum(partition.rows for partition in profile.partitions.values()) == 3
    assert not profile.repeats_ids
