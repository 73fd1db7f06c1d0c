"""Describe the files behind chunks to Icechunk: where each lies, and how a replaced file is noticed.

Icechunk reads addresses as URLs, whose query it leaves out, and hands a tag to the store without its quotation marks:
object stores of S3 understand that, web servers (RFC 9110, 8.8.3) and its own reader of local files do not. So a tag is
given for ``s3://`` alone, and the modification time for all others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.errors import CollectionError
from rasteret_assets.secrets import redact
from rasteret_assets.storage.addresses.urls import scheme
from rasteret_assets.storage.local import local_path
from rasteret_assets.storage.unchanged import IndexedFile, parse_instant

#: How Icechunk spells the scheme of an address.
_SCHEMES: Final = {"http": "http", "https": "https", "s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
_PORTS: Final = {"http": ":80", "https": ":443"}
_HOST: Final = re.compile(r"[^:]+://[^/]+/")
#: Folders that Icechunk finds as a prefix: it compares prefixes of other letters before and after it escapes them.
_PLAIN: Final = re.compile(r"(/[A-Za-z0-9._~+=@,-]+)+(?=/|$)")


def location_of(href: str, where: str) -> str:
    """Return the address of a file as Icechunk writes it.

    Args:
        href: of the file, without anything that grants access (``unsigned_hrefs``).
        where: record and band, for messages.

    Raises:
        CollectionError: if Icechunk cannot read such an address.
    """
    kind = scheme(href)
    if kind in {"", "file"}:
        return f"file://{_escaped(str(local_path(href).absolute()))}"
    if kind not in _SCHEMES:
        raise CollectionError(
            f"{where}: Icechunk reads no address such as {redact(href)!r}: it reads https://, s3://, gs:// and files "
            "on a disk. Rewrite it with url_rewrite_patterns, or leave the record out"
        )
    rest = href.partition("://")[2]
    if kind in {"http", "https"}:
        if "?" in rest or "#" in rest:
            raise CollectionError(
                f"{where}: Icechunk drops the query of {redact(href)!r}, so that another file would be read: leave the "
                "record out"
            )
        # Icechunk compares prefixes with addresses that it has brought to this form.
        host, slash, path = rest.partition("/")
        return f"{kind}://{host.lower().removesuffix(_PORTS[kind])}{slash}{path}"
    return f"{_SCHEMES[kind]}://{_escaped(rest)}"


def _escaped(key: str) -> str:
    """Return a key or path as part of a URL: characters that have a meaning there are escaped."""
    return key.replace("%", "%25").replace("?", "%3F").replace("#", "%23")


def checksum_of(location: str, file: IndexedFile) -> str | datetime | None:
    """Return by what Icechunk tells a replaced file: a tag, or a time after which it was not modified; None without.

    Args:
        location: of the file, as :func:`location_of` writes it.
        file: what the index knows of it.
    """
    if location.startswith("s3://") and file.strong_etag is not None:
        return file.strong_etag
    modified = None if file.last_modified is None else parse_instant(file.last_modified)
    # Icechunk counts whole seconds, and files on a disk are a fraction of one younger.
    if modified is not None and (modified.microsecond or location.startswith("file://")):
        modified = modified.replace(microsecond=0) + timedelta(seconds=1)
    return modified


def prefixes_of(hrefs: Iterable[pa.Array]) -> list[str]:
    """Return the prefixes under which files lie: a bucket or a host each, and the folders common to files on a disk.

    Args:
        hrefs: string arrays of addresses, as for :func:`location_of`.
    """
    remote = r"^([A-Za-z0-9+.-]+://[^/]+/).*"
    parts = [
        pc.if_else(
            pc.match_substring_regex(array, r"^(?i:file|[^:/]*$|[^:]*/)"),
            pc.replace_substring_regex(array, r"[^/]*$", ""),
            pc.replace_substring_regex(array, remote, r"\1"),
        )
        for array in hrefs
    ]
    folders = pc.unique(pa.chunked_array(parts, pa.string()))
    hosts: set[str] = set()
    local: list[Path] = []
    for folder in folders.drop_null().to_pylist():  # hosts and folders are few where files are many
        kind = scheme(folder)
        if kind in {"", "file"}:
            local.append(local_path(folder).absolute())
        elif kind in _SCHEMES and (host := _HOST.match(location_of(folder, "a file"))):
            hosts.add(host.group())
    return [*sorted(hosts), *_common(local)]


def _common(folders: Sequence[Path]) -> list[str]:
    """Return the prefix of the deepest folder that holds all ``folders``; for the root, those of its folders."""
    if not folders:
        return []
    common = os.path.commonpath(folders)
    tops = [common] if common != os.sep else sorted({f"{os.sep}{folder.parts[1]}" for folder in folders})
    plain = [_PLAIN.match(top) for top in tops]
    if None in plain:
        raise CollectionError(
            f"Icechunk finds no files below {tops[plain.index(None)]!r}, whose name has unusual letters: rename the "
            "folder, or link to it from another one"
        )
    return [f"file://{found.group()}/" for found in plain if found is not None]


def container_of(icechunk: Any, prefix: str) -> Any:
    """Return the container by which Icechunk reads the files under a prefix, with nothing that grants access.

    Args:
        icechunk: the package.
        prefix: as :func:`prefixes_of` writes it.
    """
    kind = scheme(prefix)
    if kind == "s3":
        store = icechunk.s3_store()
    elif kind == "gs":
        store = icechunk.gcs_store()
    elif kind == "file":
        store = icechunk.local_filesystem_store(prefix.removeprefix("file://"))
    else:
        store = icechunk.http_store({"allow_http": "true"} if kind == "http" else None)
    return icechunk.VirtualChunkContainer(prefix, store)
