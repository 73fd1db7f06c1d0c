"""Open files in buckets as a filesystem of pyarrow, by the package's own client of object stores.

pyarrow signs requests to a bucket with the credentials of the environment. If a token opens the bucket, which has to be
renewed while a table is read, or if the requester pays, the client that reads the headers of rasters reads the table
too.
"""

from __future__ import annotations

from typing import Final

import pyarrow.fs as pafs

from rasteret_assets.errors import AccessDeniedError, ObjectNotFoundError, RangeReadError, SourceError
from rasteret_assets.secrets import redact
from rasteret_assets.storage.http.file_handler import AddressFiles, name_of, retried
from rasteret_assets.storage.object_stores.listing import Listed
from rasteret_assets.storage.object_stores.objects import ObjectStoreBackend
from rasteret_assets.storage.process.processes import run_sync

#: Seconds after its first failure within which a listing is tried again, because a tick of Dagster ends after 60 s.
_RETRIED_FOR_S: Final = 30.0


def list_bucket(url: str, backend: ObjectStoreBackend) -> tuple[pafs.FileSystem, str, list[Listed], bool]:
    """List the object at an address, or all objects below it.

    Args:
        url: of an object, or of a folder of some.
        backend: asks the store.

    Returns:
        A filesystem that opens these objects, the path of the address on it, the objects by path, and whether the
        address is a folder.

    Raises:
        SourceError: if the store refuses, cannot be asked, or has nothing there.
    """
    try:
        found, is_folder = run_sync(retried(lambda: backend.list_files(url), _RETRIED_FOR_S))
    except ObjectNotFoundError as error:
        raise SourceError(f"{error}; give the path or URI of a Parquet file or dataset") from error
    except AccessDeniedError as error:
        raise SourceError(f"{error}; say who opens the table by credentials: in its declaration") from error
    except RangeReadError as error:
        raise SourceError(f"{error}: the table cannot be read") from error
    files = AddressFiles(backend)
    listed = sorted((files.add(*one) for one in found), key=lambda one: one.path)
    return pafs.PyFileSystem(files), name_of(url).rstrip("/"), listed, is_folder


def read_object(url: str, most: int, backend: ObjectStoreBackend) -> bytes:
    """Return the content of a small document in a bucket.

    Args:
        url: of the document.
        most: largest size of the document in bytes.
        backend: asks the store.

    Raises:
        SourceError: if the document cannot be read, or is larger than ``most``.
    """
    try:
        data = bytes(run_sync(retried(lambda: backend.read(url, 0, most + 1), _RETRIED_FOR_S)).data)
    except RangeReadError as error:
        raise SourceError(f"{error}: the document cannot be read") from error
    if len(data) > most:
        raise SourceError(f"{redact(url)}: is larger than {most // 2**20} MiB, which no document of a catalog is")
    return data
