"""List the files of a record table: of a file, a folder, a list of both, a glob, an address or a STAC document."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow.fs as pafs

from rasteret_assets.errors import SourceError
from rasteret_assets.secrets import redact
from rasteret_assets.source._stac_documents import PARQUET_SUFFIXES, files_of_document, is_document
from rasteret_assets.source.access import TableAccess
from rasteret_assets.storage.addresses.urls import scheme
from rasteret_assets.storage.filesystems import filesystem_of, reads_addresses, resolve_filesystem
from rasteret_assets.storage.http.by_address import is_http, list_addresses
from rasteret_assets.storage.http.file_handler import name_of
from rasteret_assets.storage.object_stores.listing import Listed, list_table, visible_files
from rasteret_assets.storage.object_stores.object_files import list_bucket

_WILD: Final = re.compile(r"[*?\[]")
_WILD_IN_URI: Final = re.compile(r"[*\[]")
_TOKENS: Final = re.compile(r"\*\*/|\*+|\[!?[^\]]+\]|.", re.DOTALL)
_MEANINGS: Final = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
#: Paths of a list that are listed at once.
_LISTED_AT_ONCE: Final = 16
_SUFFIXES_SHOWN: Final = ", ".join(PARQUET_SUFFIXES)

#: Called with a filesystem, the label of a table, its folder, and everything that is listed below the folder.
FolderCheck = Callable[[pafs.FileSystem, str, str, Sequence[Listed]], None]


class ListedFiles(NamedTuple):
    """Holds the Parquet files of a table that lie together, as their store lists them.

    Args:
        fs: filesystem of the files.
        folder: from which on ``key=value`` folders count; None where the files were named one by one.
        files: in path order, or in the order in which they were named.
    """

    fs: pafs.FileSystem
    folder: str | None
    files: list[Listed]


def paths_of(data: object) -> tuple[str, ...] | None:
    """Return the paths that an argument names: one path, or a list; None if the argument is a table."""
    if isinstance(data, str | Path):
        return (str(data),)
    if isinstance(data, list | tuple) and data and all(isinstance(one, str | Path) for one in data):
        return tuple(map(str, data))
    return None


def label_of(paths: Sequence[str]) -> str:
    """Return the name of a table in messages."""
    return redact(paths[0]) if len(paths) == 1 else f"{redact(paths[0])} and {len(paths) - 1} more"


def locate(paths: Sequence[str], access: TableAccess, check_folder: FolderCheck) -> list[ListedFiles]:
    """List the Parquet files of a table.

    Args:
        paths: paths, URIs or HTTP(S) addresses of files, of folders, of STAC documents, and globs.
        access: opens the paths. HTTP(S) addresses are read by the package's own client, unless its filesystem is
            fsspec's of these; paths in buckets are read so where a token opens the bucket, or its requester pays.
        check_folder: called for every folder.

    Raises:
        SourceError: if one of the paths does not exist, or is not a table of Parquet files.
    """
    local: list[_Place] = []
    addresses: list[_Place] = []
    for place in _without_documents(paths, access):
        if is_http(place.path):
            _refuse_to_list_addresses(place.path)
        own = is_http(place.path) and not reads_addresses(filesystem_of(place.path, access.filesystem))
        (addresses if own else local).append(place)
    found = _merged(_side_by_side(local, lambda place: _located(place, access, check_folder)))
    if addresses:
        urls = list(dict.fromkeys(place.path for place in addresses))
        fs, files = list_addresses(urls, access.http(), link_local=access.link_local)
        found.append(ListedFiles(fs, _root_of_addresses(addresses, files), files))
    return found


class _Place(NamedTuple):
    """Holds a path, and the document that names it."""

    path: str
    document: str | None = None


def _without_documents(paths: Sequence[str], access: TableAccess) -> Iterator[_Place]:
    for path in paths:
        if is_document(path):
            for named in files_of_document(path, access):
                yield _Place(named, path)
        else:
            yield _Place(path)


def _side_by_side(places: Sequence[_Place], list_place: Callable[[_Place], ListedFiles]) -> list[ListedFiles]:
    if len(places) < 2 or not any(scheme(place.path) for place in places):
        return [list_place(place) for place in places]
    with ThreadPoolExecutor(_LISTED_AT_ONCE) as pool:
        return list(pool.map(list_place, places))


def _merged(found: Sequence[ListedFiles]) -> list[ListedFiles]:
    """Join neighbours of one filesystem and folder."""
    merged: list[ListedFiles] = []
    for one in found:
        last = merged[-1] if merged else None
        if last is not None and last.folder == one.folder and last.fs.equals(one.fs):
            merged[-1] = ListedFiles(last.fs, last.folder, [*last.files, *one.files])
        else:
            merged.append(one)
    return merged


def _located(place: _Place, access: TableAccess, check_folder: FolderCheck) -> ListedFiles:
    path, label = place.path, redact(place.path)
    folder = _folder_of_glob(path)
    try:
        fs, inside, found = _listed(path if folder is None else folder, access)
        if found is not None and found[1]:
            check_folder(fs, label, inside, found[0])
    except OSError as error:
        # In one line, because some libraries describe a failure in several.
        raise SourceError(f"{label}: cannot be reached ({' '.join(str(error).split())})") from error
    if folder is not None:
        return ListedFiles(fs, inside, _matching(label, path, folder, inside, found[0] if found else []))
    if found is None:
        raise SourceError(f"{label}: no such file or folder; give the path or URI of a Parquet file or dataset")
    listed, is_folder = found
    files = visible_files(listed, inside, PARQUET_SUFFIXES) if is_folder else listed
    if not files:
        raise SourceError(f"{label}: holds no Parquet file (looked for names ending in {_SUFFIXES_SHOWN})")
    return ListedFiles(fs, inside if is_folder else _root(place, inside, access), files)


def _root(place: _Place, inside: str, access: TableAccess) -> str | None:
    """Return the folder of the document that names a file, if the file lies below the folder."""
    if place.document is None or scheme(place.document) != scheme(place.path):
        return None
    if access.bucket_client(place.document) is not None:
        document = name_of(place.document)
    else:
        _, document = resolve_filesystem(place.document, access.filesystem)
    folder = document.rpartition("/")[0]
    return folder if inside.startswith(f"{folder}/") else None


def _listed(path: str, access: TableAccess) -> tuple[pafs.FileSystem, str, tuple[list[Listed], bool] | None]:
    """Return the filesystem of a path, the path on it, and its listing with whether the path is a folder."""
    if (client := access.bucket_client(path)) is not None:
        fs, inside, listed, is_folder = list_bucket(path, client)
        return fs, inside, (listed, is_folder)
    fs, inside = resolve_filesystem(path, access.filesystem)
    return fs, inside, list_table(fs, inside)


def _root_of_addresses(places: Sequence[_Place], files: Sequence[Listed]) -> str | None:
    """Return the folder of the one document that names all files, if all of them lie below the folder."""
    documents = {place.document for place in places}
    document = documents.pop()
    if documents or document is None:
        return None
    folder = name_of(document).rpartition("/")[0]
    return folder if all(one.path.startswith(f"{folder}/") for one in files) else None


def _folder_of_glob(path: str) -> str | None:
    """Return the folder, or its URI, that has to be listed for a glob; None for a path that is not a glob.

    The ``?`` of a URI begins the query. A path of this machine that exists is not a glob, whatever its letters.
    """
    base, query = _split(path)
    wild = _WILD_IN_URI if "://" in path else _WILD
    if wild.search(base) is None or (scheme(path) == "" and Path(path).expanduser().exists()):
        return None
    plain = base[: wild.search(base).start()].rpartition("/")[0]  # type: ignore[union-attr]  # found above
    return (plain or ("/" if base.startswith("/") else ".")) + query


def _split(path: str) -> tuple[str, str]:
    if "://" not in path:
        return path, ""
    base, mark, query = path.partition("?")
    return base, mark + query


def _matching(label: str, path: str, folder: str, inside: str, listed: Sequence[Listed]) -> list[Listed]:
    """Return the Parquet files of a listing that a glob matches."""
    plain, _ = _split(folder)
    pattern = _split(path)[0].removeprefix("" if plain == "." else plain).lstrip("/")
    root = inside.rstrip("/") + "/"
    expression = _expression(pattern)
    matches = [one for one in listed if expression.fullmatch(one.path.removeprefix(root))]
    files = visible_files(matches, inside, PARQUET_SUFFIXES)
    if not files:
        why = (
            f"matches {len(matches)} files, of which none has a name that ends in {_SUFFIXES_SHOWN}"
            if matches
            else f"matches none of the {len(listed)} files below {redact(plain)}"
        )
        raise SourceError(f"{label}: {why}; * stands for letters of one name, ** for folders at any depth")
    return files


def _expression(pattern: str) -> re.Pattern[str]:
    """Return a glob as a regular expression: ``*``, ``?`` and ``[...]`` within a name, ``**`` for any folders."""
    # Not by fnmatch, because its stars match slashes too.
    pieces = []
    for piece in _TOKENS.findall(pattern):
        if piece in _MEANINGS:
            pieces.append(_MEANINGS[piece])
        elif len(piece) > 1:
            letters = re.escape(piece[1:-1].removeprefix("!")).replace("\\-", "-")
            pieces.append(f"[^/{letters}]" if piece[1] == "!" else f"[{letters}]")
        else:
            pieces.append(re.escape(piece))
    return re.compile("".join(pieces), re.DOTALL)


def _refuse_to_list_addresses(path: str) -> None:
    base, _ = _split(path)
    if "*" in base or base.endswith("/"):
        raise SourceError(
            f"{redact(path)}: a web server lists no files, so that a folder or a glob cannot be read: give a list of "
            "the files, the address of the STAC Collection that describes them, or the s3:// path of their bucket"
        )
