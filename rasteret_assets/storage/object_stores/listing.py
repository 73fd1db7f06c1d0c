"""List the files of a record table, with the times and tags that their store keeps.

pyarrow's own listings cannot always tell two contents of a file apart: they have no ETags, times of S3 in whole
seconds, and of fsspec's filesystems only a time that is called ``mtime``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa
import pyarrow.fs as pafs
from obstore.exceptions import BaseError

from rasteret_assets.secrets import redact
from rasteret_assets.storage.filesystems import each_file
from rasteret_assets.storage.object_stores.objects import list_objects
from rasteret_assets.storage.object_stores.s3_stores import s3_config_of
from rasteret_assets.storage.walk import is_hidden, walk

# Names of fsspec's filesystems (s3fs, gcsfs, adlfs, http, git, zip, Hugging Face) for the tag of a content and its
# time.
_TAGS: Final = (
    "ETag",
    "etag",
    "e_tag",
    "generation",
    "metageneration",
    "VersionId",
    "version_id",
    "md5Hash",
    "sha",
    "hex",
    "blob_id",
)
_TIMES: Final = (
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "modified",
    "timeModified",
    "date_time",
    "created",
)
_NS: Final = 10**9
_NO_FILE: Final = {
    stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A file as its store lists it.

    Args:
        path: on its filesystem.
        size: in bytes; None where the store does not tell.
        times_ns: times of the last change in ns since 1970, by each clock of the store (a disk has ``mtime``, which
            users can set, and ``ctime``, which they cannot); empty where the store does not tell.
        tag: ETag, version or generation of the content; None where the store has none.
        kind: kind of a file that is not regular, such as ``a named pipe``.
        address: address of a file whose path is only a name; it may hold secrets.
    """

    path: str
    size: int | None = None
    times_ns: tuple[int, ...] = ()
    tag: str | None = None
    kind: str | None = None
    address: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """Name of the file for messages."""
        return redact(self.path if self.address is None else self.address)


def list_table(fs: pafs.FileSystem, path: str) -> tuple[list[Listed], bool] | None:
    """List a file, or all files below a folder.

    Returns:
        The files in path order, and whether ``path`` is a folder; None where ``path`` does not exist. Of a hidden
        folder on a local disk only the folder itself is listed.

    Raises:
        OSError: if the store cannot be asked.
    """
    if fs.type_name == "local":
        return _list_local(path)
    if isinstance(fs, pafs.SubTreeFileSystem):
        below = list_table(fs.base_fs, f"{fs.base_path.rstrip('/')}/{path.lstrip('/')}")
        return below and ([_moved(found, fs.base_path.rstrip("/") + "/") for found in below[0]], below[1])
    info = fs.get_file_info(path)
    if info.type == pafs.FileType.NotFound:
        return None
    is_folder = info.type == pafs.FileType.Directory
    fsspec = _fsspec_of(fs)
    if fsspec is not None:
        found = list(_list_fsspec(fsspec, path, is_folder=is_folder))
    else:
        found = _list_arrow(fs, path) if is_folder else _with_tags(fs, [_of_arrow(info)])
    return sorted(found, key=lambda one: one.path), is_folder


def _list_arrow(fs: pafs.FileSystem, folder: str) -> list[Listed]:
    if isinstance(fs, pafs.S3FileSystem):
        # If obstore cannot list the folder, pyarrow does, and each object is asked for its tag.
        with suppress(BaseError, OSError, ValueError):
            return list(_list_s3(fs, folder))
    infos = fs.get_file_info(pafs.FileSelector(folder, recursive=True))
    return _with_tags(fs, [_of_arrow(found) for found in infos if found.type != pafs.FileType.Directory])


def visible_files(listed: Iterable[Listed], folder: str, suffixes: tuple[str, ...]) -> list[Listed]:
    """Return the files of a listing that belong to a table: with one of ``suffixes``, and without hidden names."""
    root = folder.rstrip("/") + "/"
    return [
        found
        for found in listed
        if found.path.lower().endswith(suffixes) and not any(map(is_hidden, found.path.removeprefix(root).split("/")))
    ]


def _list_local(path: str) -> tuple[list[Listed], bool] | None:
    try:
        facts = os.stat(path)  # noqa: PTH116  (a Path would change the text of the path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISDIR(facts.st_mode):
        return [_of_stat(path, facts)], False
    return sorted((_of_stat(entry.path, entry.facts) for entry in walk(path)), key=lambda found: found.path), True


def _of_stat(path: str, facts: os.stat_result) -> Listed:
    times = (facts.st_mtime_ns, facts.st_ctime_ns)
    return Listed(
        path=path, size=facts.st_size, times_ns=times, kind=_NO_FILE.get(stat.S_IFMT(facts.st_mode)),
    )  # fmt: skip


def _of_arrow(info: pafs.FileInfo) -> Listed:
    times = () if info.mtime_ns is None else (info.mtime_ns,)
    return Listed(path=info.path, size=info.size, times_ns=times)


def _moved(found: Listed, root: str) -> Listed:
    return Listed(**{**vars(found), "path": found.path.removeprefix(root)})


def _with_tags(fs: pafs.FileSystem, listed: list[Listed]) -> list[Listed]:
    """Return the same files with the ETags that cloud stores tell when an object is asked for by itself."""
    if not isinstance(fs, pafs.S3FileSystem | pafs.AzureFileSystem | pafs.GcsFileSystem):
        return listed

    def tag(path: str) -> str | None:
        with fs.open_input_stream(path) as stream:  # asks for the object's facts, not for its content
            facts = {name.lower(): value for name, value in (stream.metadata() or {}).items()}
        parts = [str(facts[name]) for name in ("etag", "versionid", "generation") if facts.get(name)]
        return " ".join(parts) or None

    tags = each_file(fs, tag, [found.path for found in listed])
    return [Listed(**{**vars(found), "tag": tag}) for found, tag in zip(listed, tags, strict=True)]


def _list_s3(fs: pafs.S3FileSystem, path: str) -> Iterator[Listed]:
    """Yield the objects of a folder as obstore lists them, with the options of a filesystem of pyarrow."""
    _, (options, *_) = fs.__reduce__()
    if options["role_arn"] or options["proxy_options"]["host"] or options["force_virtual_addressing"]:
        raise ValueError("obstore has no such options")
    bucket, _, prefix = path.partition("/")
    for found in list_objects(bucket, prefix, s3_config_of(options)):
        tag = " ".join(filter(None, (found["e_tag"], found["version"])))
        yield Listed(
            path=f"{bucket}/{found['path']}", size=found["size"], times_ns=(_ns(found["last_modified"]),),
            tag=tag or None,
        )  # fmt: skip


def _fsspec_of(fs: pafs.FileSystem) -> Any | None:
    handler = fs.handler if isinstance(fs, pafs.PyFileSystem) else None
    return handler.fs if isinstance(handler, pafs.FSSpecHandler) else None


def _list_fsspec(fs: Any, path: str, *, is_folder: bool) -> Iterator[Listed]:
    # Because some filesystems keep a listing as long as they live, whatever others write meanwhile.
    fs.invalidate_cache(path)
    facts: Mapping[str, Any] = fs.find(path, detail=True) if is_folder else {path: fs.info(path)}
    for name, stated in facts.items():
        tags = [f"{key}={stated[key]}" for key in _TAGS if stated.get(key)]
        times = (_moment_ns(stated[key]) for key in _TIMES if stated.get(key) is not None)
        yield Listed(
            path=name, size=stated.get("size"), times_ns=tuple(time for time in times if time is not None),
            tag=" ".join(tags) or None, kind="neither a file nor a folder" if stated.get("type") == "other" else None,
        )  # fmt: skip


def _moment_ns(value: Any) -> int | None:
    """Return the ns since 1970 of a time in any form that filesystems use; None for what is not a time of int64 ns."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    try:
        if isinstance(value, tuple):  # the form of times in zip archives, whose month and day may be 0
            value = datetime(*value[:6])  # noqa: DTZ001  (naive times are taken as UTC below)
        if isinstance(value, datetime):
            return _ns(value)
        moment = int(value * _NS) if isinstance(value, int | float) else None
    except (ValueError, OverflowError):  # also of pyarrow, for times outside of int64 ns
        return None
    return moment if moment is None or abs(moment) < 2**63 else None


def _ns(moment: datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(pa.scalar(aware, pa.timestamp("ns", "UTC")).value)
