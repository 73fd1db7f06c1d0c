"""Filesystems of record tables and workspaces: found by path or URI, and listed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs

from rasteret_assets.errors import MissingExtraError, SourceError, SpecError
from rasteret_assets.secrets import redact, redact_text
from rasteret_assets.storage.walk import is_hidden, walk

T = TypeVar("T")

_DELAYED_OPEN: Final = "allow_delayed_open"

# Requests to a store at once: each takes a round trip, and a store takes many.
_REQUESTS_AT_ONCE: Final = 16


def resolve_filesystem(path: str, filesystem: Any = None) -> tuple[pafs.FileSystem, str]:
    """Return the filesystem of a path or URI, and the path on this filesystem.

    Args:
        path: local path, or URI of any scheme that pyarrow knows (``s3://``, ``gs://``, ``file://`` ...).
        filesystem: a pyarrow or fsspec filesystem that takes precedence over the URI's own, or a function that
            returns the filesystem of a path, or None.

    Raises:
        SpecError: if ``filesystem`` is neither a filesystem nor a function.
        SourceError: if pyarrow does not know the scheme and no filesystem was given.
        MissingExtraError: if the path is of Hugging Face (``hf://``) and ``huggingface_hub`` is not installed.
    """
    filesystem = filesystem_of(path, filesystem)
    if filesystem is not None:
        inside = path.partition("://")[2] if "://" in path and not reads_addresses(filesystem) else path
        return _as_arrow(filesystem), inside
    if "://" not in path:
        return pafs.LocalFileSystem(), str(Path(path).expanduser().absolute())
    if path.startswith("hf://") and find_spec("huggingface_hub") is None:
        raise MissingExtraError(
            f"{redact(path)}: files of Hugging Face need huggingface_hub: pip install 'rasteret-assets[huggingface]'"
        )
    try:
        fs, inside = pafs.FileSystem.from_uri(_with_delayed_open(path))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        remedy = "pass filesystem= with a pyarrow or fsspec filesystem that knows it"
        # Redacted, because pyarrow repeats the URI with the keys in it.
        reason = redact_text(str(error))
        raise SourceError(f"{redact(path)}: pyarrow cannot open this URI ({reason}); {remedy}") from None
    return fs, inside


def filesystem_of(path: str, filesystem: Any) -> Any:
    """Return ``filesystem``, or what it returns for ``path`` if it is a function."""
    return filesystem(path) if callable(filesystem) else filesystem


def reads_addresses(filesystem: Any) -> bool:
    """Return whether a filesystem of fsspec takes HTTP addresses as paths, with the user's own headers and client."""
    protocol = getattr(filesystem, "protocol", ())
    return "http" in ((protocol,) if isinstance(protocol, str) else tuple(protocol))


def _with_delayed_open(uri: str) -> str:
    """Return a URI of S3 with the option that writes a small file in one request instead of three."""
    if not uri.startswith("s3://") or _DELAYED_OPEN in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}{_DELAYED_OPEN}=true"


def _as_arrow(filesystem: Any) -> pafs.FileSystem:
    if isinstance(filesystem, pafs.FileSystem):
        return filesystem
    if all(hasattr(filesystem, name) for name in ("info", "open", "ls")):
        if _is_local(filesystem):
            return pafs.LocalFileSystem()
        if type(filesystem).__module__ == "fsspec.implementations.dirfs" and _is_local(filesystem.fs):
            return pafs.SubTreeFileSystem(str(filesystem.path), pafs.LocalFileSystem())
        return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem))
    raise SpecError(
        f"filesystem={type(filesystem).__name__} is neither a pyarrow.fs.FileSystem nor an fsspec filesystem"
    )


def is_local(fs: pafs.FileSystem) -> bool:
    """Return whether a filesystem is that of this machine, or a folder of it."""
    while isinstance(fs, pafs.SubTreeFileSystem):
        fs = fs.base_fs
    if isinstance(fs, pafs.PyFileSystem) and isinstance(fs.handler, pafs.FSSpecHandler):
        return _is_local(fs.handler.fs)
    return bool(fs.type_name == "local")


def _is_local(filesystem: Any) -> bool:
    """Return whether a filesystem of fsspec is that of this machine, for which pyarrow has its own."""
    return type(filesystem).__module__ == "fsspec.implementations.local"


def list_files(fs: pafs.FileSystem, folder: str, suffixes: tuple[str, ...]) -> list[pafs.FileInfo]:
    """Return the files below a folder whose names end in one of ``suffixes``, in path order.

    Files and folders whose names start with ``_`` or ``.`` are left out: readers of Parquet take these for markers,
    checksums and table logs.
    """
    root = folder.rstrip("/") + "/"
    found = []
    for info in _files_below(fs, folder):
        hidden = any(map(is_hidden, info.path.removeprefix(root).split("/")))
        if info.type == pafs.FileType.File and not hidden and info.path.lower().endswith(suffixes):
            found.append(info)
    return sorted(found, key=lambda info: info.path)


def _files_below(fs: pafs.FileSystem, folder: str) -> Iterator[pafs.FileInfo]:
    if fs.type_name != "local":
        yield from fs.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
    elif Path(folder).is_dir():
        # Not by pyarrow, which follows a circle of links for ever.
        for path, is_file, facts in walk(folder):
            if is_file:
                yield pafs.FileInfo(path, pafs.FileType.File, size=facts.st_size, mtime_ns=facts.st_mtime_ns)


def each_file(
    fs: pafs.FileSystem, work: Callable[[str], T], paths: Sequence[str], *, takes_long: bool = False
) -> list[T]:
    """Return the result of ``work`` on each path, in the order of ``paths``.

    Args:
        fs: filesystem of the files. Unless it is a local disk, threads work on 16 files at once.
        work: called with a path.
        paths: of the files.
        takes_long: whether to use threads on a local disk too. They help where the work on a file takes longer than
            Python's threads need to take turns, which is not true of small documents and schemas.
    """
    is_local = fs.type_name == "local"
    if is_local and not takes_long:
        return [work(path) for path in paths]
    with ThreadPoolExecutor(os.cpu_count() if is_local else _REQUESTS_AT_ONCE) as pool:
        # In copies of the caller's context, because that says which locks the running code holds.
        contexts = [copy_context() for _ in paths]
        return list(pool.map(lambda context, path: context.run(work, path), contexts, paths))
