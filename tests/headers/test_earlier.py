"""The headers of version 0.1.0, whose ledgers held them, are moved to the header store without a request."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import rasteret_assets as ra
from rasteret_assets.errors import DamagedFileError
from rasteret_assets.headers.earlier import bring_up_to_date, earlier_keys, remove_earlier_tables
from rasteret_assets.headers.index import HeaderIndex
from rasteret_assets.headers.ledger import read_ledger
from rasteret_assets.headers.retried import RETRIED_CLASSES
from rasteret_assets.headers.store import HeaderStore
from rasteret_assets.schema import BAND_METADATA_SCHEMA, BANDS, NORMALIZED, RAW
from rasteret_assets.storage.workspace import Workspace
from tests.fixtures.make_workspace import FIXTURES, NAME, UNSTEADY, Files, spec_of
from tests.support.versions import EARLIER_PARSER, set_parser_version

KEYS = ("2024-05", "2024-06", "undated")


@pytest.fixture(autouse=True)
def same_parser() -> Iterator[None]:
    """Give the parser the number of the earlier version, because headers of another parser are fetched again."""
    with pytest.MonkeyPatch.context() as patch:
        set_parser_version(patch, EARLIER_PARSER)
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES / "workspace-0.1.0", tmp_path / "earlier"))


@pytest.fixture
def workspace(folder: Path) -> Workspace:
    return Workspace.at(str(folder / "workspace" / f"{NAME}_records"))


def old_rows(workspace: Workspace, key: str) -> list[dict[str, Any]]:
    """Return the rows of an earlier ledger, with the fields of this version."""
    rows = pq.read_table(workspace.stage_file(BANDS, key)).to_pylist()
    for row in rows:
        row["retry_until"] = None  # files that were missing then are gone for good
        if row["header"] is not None:
            row["header"] |= {"scale": None, "offset": None}
        for overview in (row["header"] or {}).get("overviews") or ():
            overview |= {"mask_bits": None, "compression": None}
    return rows


def new_rows(workspace: Workspace, key: str) -> list[dict[str, Any]]:
    rows = pa.Table.from_batches(read_ledger(workspace, key))
    return rows.drop_columns(["header_file", "header_row"]).to_pylist()


@pytest.mark.parametrize("key", KEYS)
def test_a_ledger_of_an_earlier_version_reads_as_before(workspace: Workspace, key: str) -> None:
    before, metadata = old_rows(workspace, key), pq.read_schema(workspace.stage_file(BANDS, key)).metadata
    bring_up_to_date(workspace, key)
    schema = pq.read_schema(workspace.stage_file(BANDS, key))
    assert schema.remove_metadata().equals(BAND_METADATA_SCHEMA)
    assert schema.metadata == metadata
    assert new_rows(workspace, key) == before
    # No more than once.
    files = HeaderStore(workspace, key).names
    bring_up_to_date(workspace, key)
    assert HeaderStore(workspace, key).names == files


@pytest.mark.parametrize("key", KEYS)
def test_headers_of_an_earlier_ledger_are_found_before_and_after_its_upgrade(workspace: Workspace, key: str) -> None:
    rows = old_rows(workspace, key)
    known = HeaderIndex()
    for keys in earlier_keys(workspace, key):
        known.add([("", 0, keys)])
    bring_up_to_date(workspace, key)
    assert list(earlier_keys(workspace, key)) == []
    index = HeaderIndex.of(HeaderStore(workspace, key))
    lasting = {
        (row["href"], row["band_index"])
        for row in rows if row["href"] and (row["header"] or row["error_class"] not in RETRIED_CLASSES)
    }  # fmt: skip
    assert len(index) == len(known) == len(lasting)


def test_headers_of_an_interrupted_build_and_of_lost_records_are_kept(workspace: Workspace, folder: Path) -> None:
    """A version between the two kept them in files of the ledger's form, beside the ledgers."""
    ledger = pq.read_table(workspace.stage_file(BANDS, "2024-06"))
    ok = ledger.filter(pc.equal(ledger["status"], "ok"))
    for place, rows in {"partial/2024-06/0.parquet": ok.slice(0, 2), "left/2024-06-1.parquet": ok.slice(2)}.items():
        path = Path(workspace.stages, f"{BANDS}.{place}")
        path.parent.mkdir(parents=True)
        pq.write_table(rows, path)
    Path(workspace.stage_file(BANDS, "2024-06")).unlink()
    files = Files(folder / "files")
    ra.build(spec_of(folder), backend=files, partitions=["2024-06"])
    assert set(ok["href"].to_pylist()).isdisjoint(files.asked)
    assert not list(Path(workspace.stages).glob(f"{BANDS}.*/**/*.parquet"))


def test_a_death_while_a_ledger_is_brought_up_to_date_loses_nothing(
    workspace: Workspace, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Died(BaseException):
        pass

    before = old_rows(workspace, "2024-05")
    put = Workspace.put_file

    def only_headers(self: Workspace, beside: str, path: str, **options: bool) -> None:
        if path.endswith(".parquet"):
            raise Died
        put(self, beside, path, **options)

    monkeypatch.setattr(Workspace, "put_file", only_headers)
    with pytest.raises(Died):
        bring_up_to_date(workspace, "2024-05")
    monkeypatch.undo()
    assert old_rows(workspace, "2024-05") == before
    files = Files(folder / "files")
    ra.build(spec_of(folder), backend=files)
    assert set(files.asked) == set(UNSTEADY)


def test_a_damaged_earlier_ledger_is_named_and_its_headers_are_fetched_again(
    workspace: Workspace, folder: Path
) -> None:
    path = Path(workspace.stage_file(BANDS, "2024-05"))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DamagedFileError, match=r"2024-05\.parquet"):
        bring_up_to_date(workspace, "2024-05")
    files = Files(folder / "files")
    ra.build(spec_of(folder), backend=files)
    assert "https://data.example/S1/B02.tif" in files.asked
    assert len(ra.load(spec_of(folder).published_path or "", verify="full")) == 11


def test_tables_of_an_earlier_version_go_with_their_partition(workspace: Workspace, folder: Path) -> None:
    for stage in (RAW, NORMALIZED):
        assert len(list(Path(workspace.stages, stage).glob("*.parquet"))) == 3
    remove_earlier_tables(workspace, {"2024-05"})
    for stage in (RAW, NORMALIZED):
        assert sorted(path.stem for path in Path(workspace.stages, stage).glob("*.parquet")) == ["2024-06", "undated"]
    ra.build(spec_of(folder), backend=Files(folder / "files"), force=True)
    for stage in (RAW, NORMALIZED):
        assert sorted(path.name for path in Path(workspace.stages, stage).iterdir()) == [
            f"{key}.arrows" for key in KEYS
        ]  # fmt: skip
