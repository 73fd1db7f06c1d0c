"""Compare-and-swap of objects on S3, GCS and Azure: an object is replaced only if its tag is still the same.

pyarrow puts objects unconditionally, so the store of a pyarrow filesystem is opened once more, by obstore, with the
same address and credentials. Other filesystems, fsspec's for example, have no conditional store.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import obstore
import pyarrow as pa
import pyarrow.fs as pafs
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, ObjectStore, S3Store

from rasteret_assets.storage.io_errors import patiently
from rasteret_assets.storage.object_stores.objects import check_obstore_works, status_of
from rasteret_assets.storage.object_stores.s3_stores import credentials_of_boto3, s3_config_of

if TYPE_CHECKING:
    from obstore import PutMode, UpdateVersion
    from obstore.store import ClientConfig, RetryConfig

#: Most bytes of an object that is put under a condition, which takes a single request: 5 GiB, the limit of S3.
LARGEST_PUT: Final = 5 * 2**30

# A renewal of a lock has to fail long before its lease ends (120 s); a large file may take long.
_DOCUMENT_TIMEOUT: Final = timedelta(seconds=20)
_FILE_TIMEOUT: Final = timedelta(hours=2)
_RETRIES: Final[RetryConfig] = {"max_retries": 3, "retry_timeout": timedelta(seconds=30)}
_LARGE: Final = 2**20
_AZURE_AUTHORITY: Final = ".blob.core.windows.net"


@dataclass(frozen=True, kw_only=True)
class ObjectTag:
    """The store's entity tag and version of an object's content: another content has another one."""

    e_tag: str | None
    version: str | None


@dataclass(frozen=True, kw_only=True)
class Content:
    """The bytes of an object, with their tag and the time at which the store wrote them."""

    data: bytes
    tag: ObjectTag
    modified: datetime


class ConditionalStore:
    """The objects of one bucket, by the paths that a pyarrow filesystem gives them.

    Args:
        documents: the bucket, with a time limit for small objects.
        files: the bucket, with a time limit for large objects.
        key_of: returns the key of an object, given its path.
    """

    def __init__(self, documents: ObjectStore, files: ObjectStore, key_of: Callable[[str], str]) -> None:
        self._documents = documents
        self._files = files
        self._key = key_of
        self._honours: bool | None = None

    def read(self, path: str) -> Content | None:
        """Return an object, or None where it does not exist.

        Raises:
            OSError: if the store does not answer.
        """
        try:
            with _answers():
                result = obstore.get(self._documents, self._key(path))
                meta, data = result.meta, result.bytes().to_bytes()
        except FileNotFoundError:
            return None
        return Content(data=data, tag=_tag(meta), modified=meta["last_modified"])

    def head_of(self, path: str, most: int) -> tuple[pa.Buffer, int] | None:
        """Return the first ``most`` bytes of an object and its size, in one request; None where it does not exist.

        Args:
            path: of the object.
            most: number of bytes; a smaller object is returned as a whole.

        Raises:
            OSError: if the store does not answer, or the object is empty.
        """
        try:
            with _answers():
                result = obstore.get(self._files, self._key(path), options={"range": (0, most)})
                return pa.py_buffer(result.bytes()), result.meta["size"]
        except FileNotFoundError:
            return None

    def tag(self, path: str) -> ObjectTag | None:
        """Return the tag of an object without reading it; None where the object does not exist.

        Raises:
            OSError: if the store does not answer.
        """
        try:
            with _answers():
                return _tag(obstore.head(self._documents, self._key(path)))
        except FileNotFoundError:
            return None

    def put(self, path: str, data: bytes | pa.Buffer, seen: ObjectTag | None) -> ObjectTag | None:
        """Replace an object if its tag is still ``seen`` (None: if the object does not exist), and return the new tag.

        Returns:
            None if another writer was first. None may also follow a put that did replace the object, if the connection
            broke and the request was sent again; :meth:`swap` tells these cases apart.

        Raises:
            OSError: if the store does not answer.
        """
        mode: PutMode = "create" if seen is None else _update(seen)
        store = self._files if len(data) > _LARGE else self._documents
        content = data if isinstance(data, bytes) else obstore.Bytes(memoryview(data).cast("B"))
        try:
            with _answers():
                return _tag(obstore.put(store, self._key(path), content, mode=mode, use_multipart=False))
        except (FileExistsError, FileNotFoundError, PreconditionError):
            return None

    def swap(self, path: str, data: bytes, seen: ObjectTag | None) -> ObjectTag | None:
        """Replace a document as :meth:`put` does; ``data`` must be a content that no other writer writes.

        Then a lost answer does no harm: if the object holds ``data`` afterwards, this call has replaced it.
        """

        def once() -> ObjectTag | None:
            failed: OSError | None = None
            try:
                if (tag := self.put(path, data, seen)) is not None:
                    return tag
            except PermissionError:
                raise
            except OSError as error:
                failed = error
            found = self.read(path)
            if found is not None and found.data == data:
                return found.tag
            if failed is not None and (found and found.tag) == seen:
                raise failed
            return None

        return patiently(once)

    def honours_conditions(self, path: str) -> bool:
        """Return whether the store refuses to create an object that exists; tried once, with an object at ``path``.

        Some S3-compatible stores ignore conditions, so that a lease on them would lock nothing.
        """
        if self._honours is None:
            try:
                self._honours = any(self.put(path, b"conditions", None) is None for _ in range(2))
            except NotImplementedError:
                self._honours = False
        return self._honours


def open_conditional(fs: pafs.FileSystem, path: str) -> ConditionalStore | None:
    """Open the store of ``path`` for conditional puts; None where its filesystem has no such store.

    Args:
        fs: pyarrow filesystem, whose address and credentials are used.
        path: path on ``fs``. It begins with the bucket, unless ``fs`` is a SubTreeFileSystem.
    """
    base = ""
    while isinstance(fs, pafs.SubTreeFileSystem):
        base = f"{fs.base_path.rstrip('/')}/{base}"
        fs = fs.base_fs
    if fs.type_name not in _OPENERS:
        return None
    _, (options, *_) = fs.__reduce__()
    bucket, _, inside = (base or path).partition("/")
    return _opened(fs.type_name, bucket, inside if base else None, pickle.dumps(options))


@lru_cache(maxsize=64)
def _opened(kind: str, bucket: str, base: str | None, options: bytes) -> ConditionalStore | None:
    """Open a store once for each bucket and set of options, so that its connections are kept."""
    given = pickle.loads(options)  # noqa: S301  (pickled by open_conditional)
    documents, files = (_OPENERS[kind](bucket, given, timeout) for timeout in (_DOCUMENT_TIMEOUT, _FILE_TIMEOUT))
    if documents is None or files is None:
        return None
    prefix = f"{bucket}/"
    return ConditionalStore(
        documents, files, (lambda path: path.removeprefix(prefix)) if base is None else (lambda path: f"{base}{path}")
    )


def _s3(bucket: str, given: Mapping[str, Any], timeout: timedelta) -> ObjectStore | None:
    client: ClientConfig = {"timeout": timeout}
    config = s3_config_of(given)
    if config.get("endpoint", "").startswith("http://"):
        client["allow_http"] = True
    if given["force_virtual_addressing"]:
        config["virtual_hosted_style_request"] = True
    if (proxy := given["proxy_options"]) and proxy["host"]:
        user = f"{proxy['username']}:{proxy['password']}@" if proxy["username"] else ""
        client["proxy_url"] = f"{proxy['scheme'] or 'http'}://{user}{proxy['host']}:{proxy['port']}"
    if given["role_arn"]:
        # pyarrow takes the role itself, and obstore cannot.
        return None
    if not {"skip_signature", "access_key_id"} & config.keys():
        config |= credentials_of_boto3()
    return S3Store(bucket, client_options=client, retry_config=_RETRIES, **config)


def _gcs(bucket: str, given: Mapping[str, Any], timeout: timedelta) -> ObjectStore | None:
    if given["endpoint_override"] or given["target_service_account"]:
        return None
    config: dict[str, Any] = {}
    if given["anonymous"]:
        config["skip_signature"] = True
    elif given["access_token"]:
        token = {"token": given["access_token"], "expires_at": given["credential_token_expiration"]}
        config["credential_provider"] = lambda: token
    return GCSStore(bucket, client_options={"timeout": timeout}, retry_config=_RETRIES, **config)


def _azure(container: str, given: Mapping[str, Any], timeout: timedelta) -> ObjectStore | None:
    if given["blob_storage_authority"] != _AZURE_AUTHORITY or given["blob_storage_scheme"] != "https":
        return None
    names = {
        "account_key": "account_key", "sas_token": "sas_key", "client_id": "client_id",
        "client_secret": "client_secret", "tenant_id": "tenant_id",
    }  # fmt: skip
    config = {ours: given[theirs] for theirs, ours in names.items() if given[theirs]}
    options: ClientConfig = {"timeout": timeout}
    return AzureStore(
        container, account_name=given["account_name"], client_options=options, retry_config=_RETRIES, **config
    )


_OPENERS: Final[Mapping[str, Callable[[str, Mapping[str, Any], timedelta], ObjectStore | None]]] = {
    "s3": _s3,
    "gcs": _gcs,
    "abfs": _azure,
}


def _tag(result: Mapping[str, Any]) -> ObjectTag:
    return ObjectTag(e_tag=result["e_tag"], version=result["version"])


def _update(seen: ObjectTag) -> UpdateVersion:
    given = {"e_tag": seen.e_tag, "version": seen.version}
    return {name: value for name, value in given.items() if value is not None}  # type: ignore[return-value]


@contextmanager
def _answers() -> Iterator[None]:
    """Raise errors of obstore as the errors that Python and pyarrow raise for the same failures.

    Only the class of an error is repeated, because its text holds the address that was asked, which may be signed.
    """
    check_obstore_works()
    try:
        yield
    except PreconditionError:
        raise
    except AlreadyExistsError as error:
        raise FileExistsError("the object exists") from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise PermissionError("access denied; check credentials and region") from error
    except BaseError as error:
        status = status_of(error)
        if status == 501:
            raise NotImplementedError("the store knows no conditional requests") from error
        answer = f", HTTP {status}" if status else ""
        raise OSError(f"the object store failed ({type(error).__name__}{answer})") from error
