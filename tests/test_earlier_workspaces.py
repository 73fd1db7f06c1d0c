"""Workspaces that earlier versions wrote open, and come up to date without asking again for what is known.

``tests/fixtures/make_workspace.py`` says what lies in them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rasteret_assets as ra
from tests.fixtures.make_workspace import FIXTURES, NAME, UNSTEADY, Files, listed_failures, published_records, spec_of
from tests.support.versions import EARLIER_PARSER, set_parser_version

EARLIER = sorted(path.name for path in FIXTURES.glob("workspace-*"))


@pytest.fixture(autouse=True)
def same_parser() -> Iterator[None]:
    """Let the parser be that of the earlier version: headers of another one are fetched anew, whatever their form."""
    with pytest.MonkeyPatch.context() as patch:
        set_parser_version(patch, EARLIER_PARSER)
        yield


@pytest.fixture(params=EARLIER)
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of an earlier version's workspace, with its record table and its files."""
    return Path(shutil.copytree(FIXTURES / request.param, tmp_path / "earlier"))


def test_an_earlier_workspace_shows_what_it_showed(earlier: Path) -> None:
    published = earlier / "workspace" / f"{NAME}_records"
    expected = json.loads((earlier / "expected.json").read_text())
    assert published_records(ra.load(published, verify="full")) == expected["records"]
    assert listed_failures(published) == expected["failures"]


def test_an_earlier_workspace_is_updated_without_asking_for_stored_headers(earlier: Path, tmp_path: Path) -> None:
    spec = spec_of(earlier)
    forecast = ra.plan(spec).totals
    files = Files(earlier / "files")
    totals = ra.build(spec, backend=files).totals
    # Failures of the moment are tried again; headers, and failures for good, are kept.
    assert set(files.asked) == set(UNSTEADY)
    assert totals["headers_fetched"] == forecast["headers_to_fetch"] == len(UNSTEADY)
    assert not ra.plan(spec).partitions

    fresh = spec.model_copy(update={"workspace_dir": str(tmp_path / "fresh")})
    ra.build(fresh, backend=Files(earlier / "files"))
    updated, scratch = (ra.load(one.published_path or "", verify="full") for one in (spec, fresh))
    assert published_records(updated) == published_records(scratch)
    assert updated.to_table().schema.equals(scratch.to_table().schema)
    assert [_without_attempts(row) for row in listed_failures(spec.published_path or "")] == [
        _without_attempts(row) for row in listed_failures(fresh.published_path or "")
    ]


def test_sizes_of_files_are_published_from_stored_headers(earlier: Path) -> None:
    spec = spec_of(earlier)
    files = Files(earlier / "files")
    ra.build(spec, backend=files)
    headers = {row["id"]: row["B03_metadata"] for row in ra.load(spec.published_path or "").to_table().to_pylist()}
    kept = earlier / "files" / "data.example-S1-B03.tif"
    assert headers["S1"]["content_length"] == kept.stat().st_size
    # The backend that the headers were read with tells nothing but bytes.
    assert (headers["S1"]["etag"], headers["S1"]["last_modified"]) == (None, None)
    assert set(files.asked) == set(UNSTEADY)


def _without_attempts(failure: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in failure.items() if name != "attempts"}


def test_a_record_that_is_new_or_moves_asks_for_its_new_files_only(earlier: Path) -> None:
    spec = spec_of(earlier)
    path = earlier / "records" / "two.parquet"
    rows = pq.read_table(path).to_pylist()
    # S9 moves from June to May; a new record has other addresses, with the files of S1 behind them.
    rows[0] |= {"datetime": datetime(2024, 5, 9, tzinfo=UTC)}
    rows.append({**rows[0], "id": "S20", "assets": {"B02": {"href": "https://data.example/S20/B02.tif"}}})
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(path)), path)
    shutil.copy(earlier / "files" / "data.example-S1-B02.tif", earlier / "files" / "data.example-S20-B02.tif")
    files = Files(earlier / "files")
    ra.build(spec, backend=files)
    assert set(files.asked) == {"https://data.example/S20/B02.tif", *UNSTEADY}
    found = {row["id"]: row for row in published_records(ra.load(spec.published_path or "", verify="full"))}
    assert found["S20"]["B02_metadata"] == found["S1"]["B02_metadata"]
    assert found["S9"]["month"] == 5
    assert found["S9"]["B03_metadata"] is not None


def test_headers_of_an_earlier_parser_are_asked_for_again(earlier: Path) -> None:
    spec, files = spec_of(earlier), Files(earlier / "files")
    with pytest.MonkeyPatch.context() as patch:
        set_parser_version(patch, EARLIER_PARSER + 1)
        forecast = ra.plan(spec).totals
        totals = ra.build(spec, backend=files).totals
        assert totals["headers_fetched"] == forecast["headers_to_fetch"]
        assert len(set(files.asked)) > len(UNSTEADY)
        assert not ra.plan(spec).partitions
