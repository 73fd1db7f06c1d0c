"""Record tables as lists, globs and STAC documents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rasteret_assets import CollectionSpec, build_from_table
from rasteret_assets.declare import read_spec
from rasteret_assets.errors import DeclarationError, MissingExtraError, SourceError, SpecError
from rasteret_assets.source.open import Source, open_source
from rasteret_assets.storage import filesystems
from tests.support.rasters import record_table
from tests.support.s3 import bucket_server, filesystem_of
from tests.support.server import RangeServer


def write(path: Path, *ids: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(record_table(list(ids), {"B02": ["/x.tif"] * len(ids)}), path)
    return str(path)


def opened(path: Any, filesystem: Any = None) -> Source:
    return open_source(path, CollectionSpec.of(path=path if isinstance(path, str | list) else ""), filesystem)


def ids(path: Any, filesystem: Any = None) -> list[str]:
    return sorted(opened(path, filesystem).table()["id"].to_pylist())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of two years below a folder ``t``."""
    for year, name in ((2023, "a"), (2024, "b")):
        write(tmp_path / "t" / f"year={year}" / "items.parquet", name)
    write(tmp_path / "t" / "year=2024" / "live.parquet", "c")
    write(tmp_path / "t" / "year=2024" / "_hidden.parquet", "hidden")
    (tmp_path / "t" / "year=2024" / "items.txt").write_text("no table")
    return tmp_path / "t"


# --- lists -----------------------------------------------------------------------------------------------------------


def test_a_list_may_hold_files_and_folders_and_each_file_counts_once(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.parquet", "d")
    paths = [other, folder / "year=2024", str(folder / "year=2024" / "live.parquet"), Path(other)]
    assert ids(paths) == ["b", "c", "d"]
    assert not opened(paths).remote
    assert build_from_table(paths).to_table().num_rows == 3


def test_one_remote_file_makes_a_table_remote(folder: Path, server: RangeServer) -> None:
    server.objects["/r.parquet"] = Path(write(folder.parent / "r.parquet", "r")).read_bytes()
    source = opened([str(folder / "year=2023"), server.url + "/r.parquet"])
    assert source.remote
    assert sorted(source.table()["id"].to_pylist()) == ["a", "r"]


def test_a_list_in_yaml_starts_at_its_file(folder: Path) -> None:
    file = folder.parent / "s2.yaml"
    file.write_text("path: [t/year=2023/items.parquet, 't/year=2024/l*.parquet', 'https://e.test/x.parquet']\n")
    declared = read_spec(file)
    assert declared.paths[0] == str(folder / "year=2023" / "items.parquet")
    assert declared.paths[2] == "https://e.test/x.parquet"
    assert ids(list(declared.paths[:2])) == ["a", "c"]
    file.write_text("path: []\n")
    with pytest.raises(DeclarationError, match="an empty list names no file"):
        read_spec(file)


def test_a_list_of_other_things_is_refused(folder: Path) -> None:
    with pytest.raises(SpecError):
        CollectionSpec.of(path=[1, 2])
    with pytest.raises(SourceError, match="is not a record table"):
        build_from_table([str(folder), pa.table({"id": ["a"]})])
    with pytest.raises(SourceError, match=r"nowhere\.parquet: no such file"):
        opened([str(folder), str(folder / "nowhere.parquet")])


# --- globs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*/items.parquet", ["a", "b"]),
        ("year=2024/*.parquet", ["b", "c"]),
        ("year=202[4]/*", ["b", "c"]),
        ("year=202[!4]/*", ["a"]),
        ("year=202?/l?ve.parquet", ["c"]),
        ("**/items.parquet", ["a", "b"]),
        ("**", ["a", "b", "c"]),
    ],
)
def test_a_glob_finds_files_of_a_listing(folder: Path, glob: str, found: list[str]) -> None:
    assert ids(f"{folder}/{glob}") == found


def test_folders_of_a_glob_become_columns(folder: Path) -> None:
    table = opened(f"{folder}/*/*.parquet").table()
    assert dict(zip(table["id"].to_pylist(), table["year"].to_pylist(), strict=True)) == {
        "a": 2023,
        "b": 2024,
        "c": 2024,
    }


def test_a_path_that_exists_is_not_a_glob(tmp_path: Path) -> None:
    write(tmp_path / "a[1].parquet", "x")
    write(tmp_path / "a1.parquet", "y")
    assert ids(str(tmp_path / "a[1].parquet")) == ["x"]


@pytest.mark.parametrize(
    ("glob", "said"),
    [
        ("*/part-*.parquet", r"matches none of the 5 files below .*/t; \* stands for letters of one name"),
        ("*/*.txt", r"matches 1 files, of which none has a name that ends in \.parquet"),
        ("nowhere/*", r"matches none of the 0 files below .*/t/nowhere"),
    ],
)
def test_a_glob_without_matches_is_reported(folder: Path, glob: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        opened(f"{folder}/{glob}")


def test_a_glob_over_a_bucket_takes_one_listing(folder: Path) -> None:
    with bucket_server("bucket") as endpoint:
        fs = filesystem_of(endpoint)
        for file in folder.rglob("*.parquet"):
            with fs.open_output_stream(f"bucket/x/{file.relative_to(folder)}") as sink:
                sink.write(file.read_bytes())
        assert ids("s3://bucket/x/*/items.parquet", fs) == ["a", "b"]
        assert ids("s3://bucket/x/year=2024/*.parquet", lambda _: fs) == ["b", "c"]
        assert ids(["s3://bucket/x/year=2023", "s3://bucket/x/year=2024/l*.parquet"], fs) == ["a", "c"]
        assert opened("s3://bucket/x/*/items.parquet", fs).remote


# --- STAC documents --------------------------------------------------------------------------------------------------


def collection(**fields: Any) -> dict[str, Any]:
    return {"type": "Collection", "stac_version": "1.1.0", "id": "s2", "assets": {}, "links": [], **fields}


@pytest.fixture
def mirror(folder: Path) -> Iterator[tuple[Path, str]]:
    """A folder of files, and the address at which a server has it."""
    with RangeServer(folder).running() as server:
        yield folder, server.url


def put(folder: Path, document: dict[str, Any], name: str = "collection.json") -> None:
    (folder / name).write_text(json.dumps(document))


def test_assets_of_a_collection_are_the_files(mirror: tuple[Path, str]) -> None:
    folder, url = mirror
    put(
        folder,
        collection(
            assets={
                "thumbnail": {"href": "./thumbnail.png", "type": "image/png"},
                "old": {"href": "year=2023/items.parquet"},
                "new": {"href": f"{url}/year=2024/items.parquet?x=1", "type": "application/x-parquet"},
                "live": {"href": "./year=2024/live.parquet", "type": "application/vnd.apache.parquet; version=2"},
            }
        ),
    )
    assert ids(f"{url}/collection.json") == ["a", "b", "c"]
    assert ids(str(folder / "collection.json")) == ["a", "b", "c"]
    assert opened(str(folder / "collection.json")).remote


def test_items_of_a_partitioned_collection_name_the_files(mirror: tuple[Path, str]) -> None:
    folder, url = mirror
    links = [{"rel": "item", "href": f"./year={year}/{year}.json"} for year in (2023, 2024)]
    put(folder, collection(links=links, **{"partition:glob": "s3://elsewhere/x/*.parquet"}))
    for year in (2023, 2024):
        files = sorted((folder / f"year={year}").glob("[il]*.parquet"))
        item = {"type": "Feature", "assets": {file.stem: {"href": f"./{file.name}"} for file in files}}
        put(folder, item, f"year={year}/{year}.json")
    for path in (f"{url}/collection.json", str(folder / "collection.json")):
        table = opened(path).table()
        assert sorted(table["id"].to_pylist()) == ["a", "b", "c"]
        assert set(table["year"].to_pylist()) == {2023, 2024}
    assert ids(f"{url}/year=2024/2024.json") == ["b", "c"]


@pytest.mark.parametrize("stated", ["collection", "asset", "href"])
def test_a_glob_that_a_collection_states_is_listed(folder: Path, stated: str) -> None:
    glob = f"{folder}/year=*/*.parquet"
    fields: dict[str, Any] = {
        "collection": {"partition:glob": glob},
        "asset": {"assets": {"data": {"href": "./year=2023/*.parquet", "partition:glob": glob}}},
        "href": {"assets": {"data": {"href": "./year=*/*.parquet"}}},
    }[stated]
    put(folder, collection(**fields))
    assert ids(str(folder / "collection.json")) == ["a", "b", "c"]


def test_a_collection_in_a_bucket_names_its_files_from_there(folder: Path) -> None:
    with bucket_server("bucket") as endpoint:
        fs = filesystem_of(endpoint)
        put(folder, collection(assets={"data": {"href": "./year=2023/items.parquet"}}))
        for file in (folder / "year=2023" / "items.parquet", folder / "collection.json"):
            with fs.open_output_stream(f"bucket/x/{file.relative_to(folder)}") as sink:
                sink.write(file.read_bytes())
        assert ids("s3://bucket/x/collection.json", fs) == ["a"]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (collection(), r"describes no Parquet file \(it has no assets\)"),
        (collection(assets={"t": {"href": "t.png"}}), r"describes no Parquet file \(it has the assets t\)"),
        ({"type": "Catalog"}, "is not a STAC Collection but a STAC Catalog"),
        ({"a": 1}, "is not a STAC Collection but another document"),
        ([], "is not a JSON document of a STAC Collection"),
    ],
)
def test_a_document_without_parquet_is_one_sentence(mirror: tuple[Path, str], document: Any, said: str) -> None:
    folder, url = mirror
    put(folder, document)
    for path in (str(folder / "collection.json"), f"{url}/collection.json"):
        with pytest.raises(SourceError, match=said):
            opened(path)


def test_a_document_that_does_not_exist_or_is_not_json_is_reported(mirror: tuple[Path, str]) -> None:
    folder, url = mirror
    with pytest.raises(SourceError, match=r"none\.json: does not exist \(HTTP 404\)"):
        opened(f"{url}/none.json")
    with pytest.raises(SourceError, match=r"none\.json: no such file"):
        opened(str(folder / "none.json"))
    (folder / "c.json").write_text("<html>")
    with pytest.raises(SourceError, match=r"c\.json: is not a JSON document"):
        opened(f"{url}/c.json")


@pytest.mark.parametrize("href", ["file:///etc/t.parquet", "file:///etc/*.parquet"])
def test_a_document_at_an_address_may_not_name_files_of_this_machine(mirror: tuple[Path, str], href: str) -> None:
    folder, url = mirror
    put(folder, collection(assets={"data": {"href": href}}))
    with pytest.raises(SourceError, match="names a file of this machine"):
        opened(f"{url}/collection.json")


def test_a_document_may_not_name_an_address_of_the_machines_own_network(mirror: tuple[Path, str]) -> None:
    folder, url = mirror
    put(folder, collection(assets={"data": {"href": "http://169.254.169.254/t.parquet"}}))
    with pytest.raises(SourceError, match="own network"):
        opened(f"{url}/collection.json")


# --- Hugging Face ----------------------------------------------------------------------------------------------------


def test_the_package_that_hugging_face_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filesystems, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"rasteret-assets\[huggingface\]"):
        opened("hf://datasets/org/name/t.parquet")


@pytest.fixture
def hub(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[RangeServer]:
    """A server in the place of Hugging Face's."""
    package, constants = (pytest.importorskip(name) for name in ("huggingface_hub", "huggingface_hub.constants"))
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # Filesystems are kept for later calls, with the addresses that they were made with.
    package.HfFileSystem.clear_instance_cache()
    yield server
    package.HfFileSystem.clear_instance_cache()


def test_files_of_hugging_face_are_listed_and_read(folder: Path, hub: RangeServer) -> None:
    repository = "/api/datasets/org/name"
    files = [file.relative_to(folder) for file in sorted(folder.rglob("[il]*.parquet"))]
    tree = [
        {"type": "directory", "path": "year=2023", "oid": "d1"},
        {"type": "directory", "path": "year=2024", "oid": "d2"},
    ]
    for file in files:
        content = (folder / file).read_bytes()
        hub.objects[f"/datasets/org/name/resolve/main/{file}"] = content
        tree.append({"type": "file", "path": str(file), "oid": hashlib.sha1(content).hexdigest(), "size": len(content)})

    def answer(path: str, document: Any) -> None:
        hub.answers[path] = (200, {"Content-Type": "application/json"}, json.dumps(document).encode())

    answer(repository, {"id": "org/name", "sha": "0" * 40, "siblings": []})
    answer(f"{repository}/tree/main?recursive=true&expand=false", tree)
    path = "hf://datasets/org/name/*/items.parquet"
    source = opened(path)
    assert source.remote
    assert sorted(source.table()["id"].to_pylist()) == ["a", "b"]
    assert opened(path).fingerprint == source.fingerprint
    # The hub tells neither a time nor an ETag in its listing, but the hash of the content.
    tree[-3]["oid"] = "0" * 40
    answer(f"{repository}/tree/main?recursive=true&expand=false", tree)
    assert opened(path).fingerprint != source.fingerprint
