"""Find the Parquet files of a record table in a STAC document.

Public mirrors describe their files in three ways, which are tried in this order:

* assets of the Collection that are Parquet files, each by its address (as Planetary Computer does);
* assets of the Items that a Collection links, where it states by ``partition:`` fields that its files are a partitioned
  table (as the mirrors of Portolan do, whose Items describe a year each);
* a ``partition:glob`` of the Collection or of an asset, or an asset's href with a ``*`` in it
  (https://github.com/portolan-sdi/stac-partition-extension).
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urljoin

import pyarrow.fs as pafs

from rasteret_assets.errors import SourceError
from rasteret_assets.secrets import redact
from rasteret_assets.source.access import TableAccess
from rasteret_assets.storage.addresses.urls import scheme
from rasteret_assets.storage.filesystems import each_file, filesystem_of, reads_addresses, resolve_filesystem
from rasteret_assets.storage.http.by_address import is_http, read_addresses
from rasteret_assets.storage.object_stores.object_files import read_object

PARQUET_SUFFIXES: Final = (".parquet", ".geoparquet", ".parq", ".pq")
#: Patterns of an address in Azure without its account (container and path), and of the name of an account.
_AZURE: Final = re.compile(r"(?:abfss?|az|azure)://([^/@]+)/(.+)", re.DOTALL)
_ACCOUNT: Final = re.compile(r"[a-z0-9]{3,24}")
#: Collections of an API have this address (STAC API 1.0, and OGC API - Features 7.11).
_IN_API: Final = re.compile(r"/collections/[^/]+/?$")
_PARQUET_TYPES: Final = ("application/vnd.apache.parquet", "application/x-parquet")
#: Most bytes of a document, and most Items of a Collection; catalogs of Parquet files are far smaller.
_MOST_BYTES: Final = 32 * 2**20
_MOST_ITEMS: Final = 10_000
_NAMED: Final = 8


def is_document(path: str) -> bool:
    """Tell whether a path leads to a JSON document: by its name, or as the address of a Collection in an API."""
    bare = _bare(path)
    return bare.lower().endswith(".json") or (is_http(path) and _IN_API.search(bare) is not None)


def files_of_document(path: str, access: TableAccess) -> list[str]:
    """Return the paths, addresses or globs of the Parquet files that a STAC Collection or Item describes.

    Args:
        path: of the document.
        access: opens the document.

    Raises:
        SourceError: if the document cannot be read, is not a Collection or Item, names no Parquet file, or lies on
            another machine and names files of this one.
    """
    label = redact(path)
    (document,) = _read([path], access)
    if document.get("type") not in {"Collection", "Feature"}:
        kind = f"a STAC {document['type']}" if document.get("type") == "Catalog" else "another document"
        raise SourceError(
            f"{label}: is not a STAC Collection but {kind}: give the address of a Collection whose assets are Parquet"
        )
    files = list(_parquet_assets(path, document))
    if not files and _is_partitioned(document):
        items = [_resolved(path, link["href"]) for link in _links(document)]
        if len(items) > _MOST_ITEMS:
            raise SourceError(
                f"{label}: links {len(items)} Items, more than the {_MOST_ITEMS} that are read: give a glob or "
                "a list of the Parquet files"
            )
        _refuse_local(label, path, items)
        for place, item in zip(items, _read(items, access), strict=True):
            files += _parquet_assets(place, item)
    files = files or [_resolved(path, glob) for glob in _globs(document)]
    if not files:
        names = list(_assets(document))
        has = f"it has the assets {', '.join(names[:_NAMED])}" if names else "it has no assets"
        raise SourceError(
            f"{label}: describes no Parquet file ({has}): give the address of a Collection with assets of the type "
            f"{_PARQUET_TYPES[0]}, or of the files"
        )
    _refuse_local(label, path, files)
    return list(dict.fromkeys(files))


def _read(paths: Sequence[str], access: TableAccess) -> list[dict[str, Any]]:
    if paths and all(is_http(path) and not reads_addresses(filesystem_of(path, access.filesystem)) for path in paths):
        texts = read_addresses(paths, _MOST_BYTES, access.http(), link_local=access.link_local)
    else:
        texts = [_read_file(path, access) for path in paths]
    return [_parsed(path, text) for path, text in zip(paths, texts, strict=True)]


def _read_file(path: str, access: TableAccess) -> bytes:
    if (client := access.bucket_client(path)) is not None:
        return read_object(path, _MOST_BYTES, client)
    fs, inside = resolve_filesystem(path, access.filesystem)
    label = redact(path)
    try:
        if fs.get_file_info(inside).type == pafs.FileType.NotFound:
            raise SourceError(f"{label}: no such file; give the path or URI of a STAC Collection or a Parquet file")
        (text,) = each_file(fs, lambda one: _content(fs, one), [inside])
    except OSError as error:
        raise SourceError(f"{label}: cannot be read ({error})") from error
    if len(text) > _MOST_BYTES:
        raise SourceError(f"{label}: is larger than {_MOST_BYTES // 2**20} MiB, which no document of a catalog is")
    return text


def _content(fs: pafs.FileSystem, path: str) -> bytes:
    with fs.open_input_stream(path, compression=None) as stream:
        return bytes(stream.read(_MOST_BYTES + 1))


def _parsed(path: str, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SourceError(f"{redact(path)}: is not a JSON document of a STAC Collection")
    return document


def _assets(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    assets = document.get("assets")
    found = assets.items() if isinstance(assets, dict) else ()
    return {str(name): asset for name, asset in found if isinstance(asset, dict)}


def _links(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    links = document.get("links")
    found = links if isinstance(links, list) else []
    return [one for one in found if isinstance(one, dict) and one.get("rel") == "item" and _text(one.get("href"))]


def _parquet_assets(path: str, document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the addresses of the Parquet files among the assets of a document; globs are not addresses."""
    for asset in _assets(document).values():
        href = _text(asset.get("href"))
        if href and _is_parquet(asset) and "*" not in href:
            yield _with_account(_resolved(path, href), document, asset)


def _with_account(href: str, document: Mapping[str, Any], asset: Mapping[str, Any]) -> str:
    """Return an address in Azure with its account, where only the options for fsspec beside it name the account.

    Planetary Computer writes ``abfs://items/x.parquet`` and ``table:storage_options: {account_name: ...}``
    (https://github.com/stac-extensions/table, https://planetarycomputer.microsoft.com/docs/quickstarts/stac-geoparquet/).
    """
    found = _AZURE.fullmatch(href)
    if found is None:
        return href
    for place in (asset, document):
        options = place.get("table:storage_options")
        account = _text(options.get("account_name")) if isinstance(options, dict) else ""
        if _ACCOUNT.fullmatch(account):
            return f"abfs://{found[1]}@{account}.dfs.core.windows.net/{found[2]}"
    return href


def _globs(document: Mapping[str, Any]) -> Iterator[str]:
    assets = _assets(document).values()
    for place in (document, *assets):
        if stated := _text(place.get("partition:glob")):
            yield stated
            return
    for asset in assets:
        href = _text(asset.get("href"))
        if "*" in href and _is_parquet(asset):
            yield href


def _is_parquet(asset: Mapping[str, Any]) -> bool:
    kind = str(asset.get("type", "")).partition(";")[0].strip().lower()
    href = _text(asset.get("href")).partition("?")[0].partition("#")[0]
    return kind in _PARQUET_TYPES or href.lower().endswith(PARQUET_SUFFIXES)


def _is_partitioned(document: Mapping[str, Any]) -> bool:
    places = (document, *_assets(document).values())
    return document.get("type") == "Collection" and any(
        name.startswith("partition:") for place in places for name in place
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _bare(path: str) -> str:
    """Return a path without the query and fragment of an address."""
    return path.partition("?")[0].partition("#")[0] if "://" in path else path


def _resolved(document: str, href: str) -> str:
    """Return an href of a document as a path or address; relative hrefs start at the folder of the document."""
    if scheme(href):
        return href
    if is_http(document):
        return urljoin(document, href)
    if href.startswith("/"):
        return href
    base, _, query = document.partition("?") if "://" in document else (document, "", "")
    kind, found, inside = base.rpartition("://")
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(inside), href))
    return f"{kind}{found}{joined}{'?' if query else ''}{query}"


def _refuse_local(label: str, document: str, paths: Sequence[str]) -> None:
    """Refuse files of this machine that a document of another machine names."""
    if scheme(document) in {"", "file"}:
        return
    if local := [path for path in paths if scheme(path) in {"", "file"}]:
        raise SourceError(
            f"{label}: names a file of this machine, {local[0]!r}, although it lies on another: give that path "
            "yourself, in a list of files"
        )
