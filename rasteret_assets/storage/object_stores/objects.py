"""Read byte ranges from object stores (``s3://``, ``gs://``, ``az://``) through obstore."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import obstore
import pyarrow.fs as pafs
from obstore.exceptions import (
    BaseError,
    NotFoundError,
    NotModifiedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, ObjectStore

from rasteret_assets.errors import (
    AccessDeniedError,
    ForkedProcessError,
    ObjectNotFoundError,
    RangeReadError,
    StoreUnavailableError,
)
from rasteret_assets.secrets import redact
from rasteret_assets.storage.addresses.urls import scheme
from rasteret_assets.storage.backend import EndsRead, RangeRead, ReadingBackend, Validators
from rasteret_assets.storage.object_stores.s3_stores import endpoints_in, open_s3, s3_endpoint_of_environment
from rasteret_assets.storage.process.processes import OfProcess, works_here
from rasteret_assets.storage.unchanged import IndexedFile, check_unchanged, replaced

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import AzureCredentialProvider, GCSCredentialProvider, S3CredentialProvider

    from rasteret_assets.storage.credentials.signing import Signer
    from rasteret_assets.storage.credentials.tokens import Token

    #: Gives the credentials of a store when obstore asks for them.
    CredentialProvider: TypeAlias = S3CredentialProvider | GCSCredentialProvider | AzureCredentialProvider

T = TypeVar("T")

_AZURE_SCHEMES = frozenset({"az", "azure", "abfs", "abfss"})
OBJECT_SCHEMES = frozenset({"s3", "s3a", "gs", "gcs"}) | _AZURE_SCHEMES
# Buckets of all stores have these letters only (Ceph writes a tenant before a colon); obstore panics or retries else.
_BUCKET_URL = re.compile(r"[A-Za-z0-9+.-]+://([A-Za-z0-9_.:$@-]+)/+(.+)", re.DOTALL)
_AZURE_HOST = re.compile(r"https://([a-z0-9]+)\.blob\.core\.windows\.net/([^/?#]+)/([^?#]*)")
# obstore tells the status in its message only. Matched from the start, because the store's own words come after it.
_STATUS = re.compile(
    r"Generic \w+ error: Error performing [A-Z]+ \S+ in [^-]*- Server returned non-2xx status code: (\d+) "
)

#: Why obstore may not work, and what helps.
FORKED: Final = (
    "It was forked after its parent had asked an object store, whose client has no threads here: start processes with "
    "multiprocessing_context='forkserver' or 'spawn', or ask object stores in them only"
)


def obstore_works() -> bool:
    """Return whether obstore works in this process; otherwise its calls would wait for ever."""
    return works_here("obstore")


def check_obstore_works() -> None:
    """Refuse to use obstore in a process in which its calls would wait for ever.

    Raises:
        OSError: if this process was forked from one that had used obstore.
    """
    if not obstore_works():
        raise OSError(f"an object store cannot be asked in this process. {FORKED}")


class _NotModified(Exception):  # noqa: N818  (no error: the answer to a condition)
    """The object still has the validators it was asked for."""


class _PreconditionFailed(Exception):  # noqa: N818  (no error: the answer to a condition)
    """The object does not have the validators that were demanded."""


class ObjectStoreBackend(ReadingBackend):
    """Byte ranges of objects in S3, Google Cloud Storage and Azure Blob Storage.

    One store per bucket is kept; its connections are shared by all requests.

    Args:
        credential_provider: an obstore credential provider; None signs with the environment's credentials, or sends
            unsigned requests if the environment has none.
        s3_config: obstore S3 configuration for every bucket (``region``, ``endpoint``, ``request_payer`` ...), and
            ``profile_name`` of AWS' configuration files and ``allow_invalid_certificates``.
        bucket_config: the same for single buckets; takes precedence over ``s3_config``.
        signer: gives credentials of buckets that its issuer knows.
    """

    def __init__(
        self,
        credential_provider: CredentialProvider | None = None,
        s3_config: Mapping[str, object] | None = None,
        bucket_config: Mapping[str, Mapping[str, object]] | None = None,
        signer: Signer | None = None,
    ) -> None:
        self._signer = signer
        self._credential_provider = credential_provider
        self._s3_config = dict(s3_config or {})
        self._bucket_config = {bucket: dict(config) for bucket, config in (bucket_config or {}).items()}
        self._stores: OfProcess[dict[tuple[str, str], tuple[Token | None, ObjectStore]]] = OfProcess(dict)

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        """Return one range with the object's size and validators.

        Raises:
            RangeReadError: in the subclass that fits the failure.
        """
        return await self._get(url, {"range": (start, start + length)})

    async def read_ends(self, url: str, head: int, tail: int) -> EndsRead:
        """Return the first ``head`` and the last ``tail`` bytes, in two requests at once.

        No object store answers two ranges in one request. Azure does not know ranges that count from the end, so only
        the start of an object there is read.
        """
        if scheme(url) in _AZURE_SCHEMES or is_azure_blob(url):
            return EndsRead([(0, await self._get(url, {"range": (0, head)}))], 1)
        start, end = await asyncio.gather(
            self._get(url, {"range": (0, head)}), self._get(url, {"range": {"suffix": tail}})
        )
        return EndsRead([(0, start), ((end.size or 0) - len(memoryview(end.data)), end)], 2)

    async def read_if_changed(self, url: str, start: int, length: int, validators: Validators) -> RangeRead | None:
        """Return one range, or None where the object still has the entity tag of ``validators``."""
        options: GetOptions = {"range": (start, start + length)}
        if validators.etag:
            options["if_none_match"] = validators.etag
        try:
            return await self._get(url, options)
        except _NotModified:
            return None

    async def read_unchanged(self, url: str, start: int, length: int, indexed: IndexedFile) -> RangeRead:
        """Return one range of the indexed object, on the condition that the object still has the entity tag.

        Tag, time and size that come with the bytes are compared too, because some stores ignore conditions.

        Raises:
            FileReplacedError: if the object is another than the indexed one.
            RangeReadError: in the subclass that fits any other failure.
        """
        options: GetOptions = {"range": (start, start + length)}
        if tag := indexed.strong_etag:
            options["if_match"] = tag
        try:
            return check_unchanged(await self._get(url, options), url, indexed)
        except _PreconditionFailed as error:
            raise replaced(url, "its ETag is another") from error
        except RangeReadError as error:
            if error.status == 416 and indexed.size is not None and start < indexed.size:
                raise replaced(url, f"it had {indexed.size} bytes and now has at most {start}") from error
            raise

    def opens(self, url: str) -> bool:
        """Return whether a token of the signer opens the bucket of ``url``, or its requester pays."""
        if self._signer is not None and self._signer.issuer.scope(url) is not None:
            return True
        bucket = url.split("/")[2] if scheme(url) in {"s3", "s3a"} else ""
        return bool(bucket) and bool({**self._s3_config, **self._bucket_config.get(bucket, {})}.get("request_payer"))

    async def list_files(self, url: str) -> tuple[list[tuple[str, RangeRead]], bool]:
        """Return the object at an address, or all objects below it, and whether the address is a folder.

        Each object comes as its address and an empty range with its size, tag and time.

        Raises:
            ObjectNotFoundError: if neither an object nor a folder is at the address.
            RangeReadError: in the subclass that fits the failure.
        """
        await self._find_region(url)
        return await self._signed(url, lambda token: self._list_with(url, token))

    async def _find_region(self, url: str) -> None:
        """Ask AWS for the region of a bucket, unless it was given.

        A record table may lie in another region than the rasters, whose region a cloud configuration gives.
        """
        bucket = url.split("/")[2]
        has_endpoint = bucket in self._bucket_config or endpoints_in(self._s3_config) or s3_endpoint_of_environment()
        if scheme(url) not in {"s3", "s3a"} or has_endpoint:
            return
        with suppress(OSError):
            self._bucket_config[bucket] = {"region": await asyncio.to_thread(pafs.resolve_s3_region, bucket)}

    async def _list_with(self, url: str, token: Token | None) -> tuple[list[tuple[str, RangeRead]], bool]:
        try:
            store, path = self._locate(url.rstrip("/"), token)
            base = url.rstrip("/").removesuffix(path)
            if not url.endswith("/"):
                try:
                    found = await obstore.head_async(store, path)
                except (NotFoundError, FileNotFoundError):
                    pass
                else:
                    if found["size"]:  # an empty object may be a folder, in stores that have folders
                        return [_found(base, found)], False
            objects = await obstore.list(store, f"{path}/").collect_async()
        except (BaseError, OSError, ValueError) as error:
            # Without the cause, because its text holds the signed URL of the request.
            raise _translated(error, url) from None
        if not objects:
            where = redact(url)
            raise ObjectNotFoundError(f"{where}: no such object or folder", href=where)
        return [_found(base, one) for one in objects], True

    async def _get(self, url: str, options: GetOptions) -> RangeRead:
        return await self._signed(url, lambda token: self._get_with(url, options, token))

    async def _signed(self, url: str, ask: Callable[[Token | None], Awaitable[T]]) -> T:
        """Return what a request brings, signed by the signer where it has credentials for the bucket."""
        if self._signer is None:
            _refuse_fork(url)
            return await ask(None)

        async def tried(token: Token | None) -> T | AccessDeniedError:
            _refuse_fork(url)
            try:
                return await ask(token)
            except AccessDeniedError as error:
                if token is None:
                    raise
                return error

        answer = await self._signer.read(
            url, tried, lambda answer: 403 if isinstance(answer, AccessDeniedError) else 206
        )  # fmt: skip
        assert not isinstance(answer, AccessDeniedError)  # noqa: S101  (the signer raises what was refused)
        return answer

    async def _get_with(self, url: str, options: GetOptions, token: Token | None) -> RangeRead:
        try:
            store, path = self._locate(url, token)
            result = await obstore.get_async(store, path, options=options)
            meta = result.meta
            data = await result.bytes_async()
        except NotModifiedError as error:
            raise _NotModified from error
        except PreconditionError as error:
            raise _PreconditionFailed from error
        except (BaseError, OSError, ValueError) as error:
            # Without the cause, because its text holds the signed URL of the request.
            raise _translated(error, url) from None
        modified = meta["last_modified"].isoformat()
        return RangeRead(data.to_bytes(), meta["size"], meta["e_tag"], modified)

    def _locate(self, url: str, token: Token | None) -> tuple[ObjectStore, str]:
        if azure := _AZURE_HOST.fullmatch(url):
            account, container, path = azure.groups()
            return self._store("azure", container, token, account_name=account), path
        match = _BUCKET_URL.fullmatch(url)
        if match is None or scheme(url) not in OBJECT_SCHEMES:
            raise RangeReadError(
                f"{redact(url)}: not the address of an object; write scheme://bucket/key", href=redact(url)
            )
        bucket, path = match.groups()
        return self._store(scheme(url), bucket, token), path

    def _store(self, kind: str, bucket: str, token: Token | None, **azure: str) -> ObjectStore:
        """Return the store of a bucket; a new one for each token, because a store of obstore keeps its credentials."""
        key = (azure.get("account_name", kind), bucket)
        stores = self._stores.get()
        found = stores.get(key)
        if found is None or found[0] is not token:
            found = stores[key] = token, self._open(kind, bucket, token, azure)
        return found[1]

    def _open(self, kind: str, bucket: str, token: Token | None, azure: Mapping[str, str]) -> ObjectStore:
        signed: dict[str, Any] = {}
        if token is not None and token.store:
            signed["credential_provider"] = lambda: {**token.store, "expires_at": token.expires_at}
        elif self._credential_provider is not None:
            signed["credential_provider"] = self._credential_provider
        if kind in {"gs", "gcs"}:
            return GCSStore(bucket, **signed)
        if kind in _AZURE_SCHEMES:
            # abfss://container@account.dfs.core.windows.net/ names the account; az:// leaves it to the environment.
            container, _, account = bucket.partition("@")
            names = {"account_name": account.partition(".")[0]} if account else azure
            return AzureStore(container, **{**names, **signed})
        return open_s3(bucket, {**self._s3_config, **self._bucket_config.get(bucket, {})}, signed)


def _found(base: str, meta: obstore.ObjectMeta) -> tuple[str, RangeRead]:
    """Return the address of a listed object, and what the listing tells of the object beside its bytes."""
    modified = meta["last_modified"].isoformat()
    return f"{base}{meta['path']}", RangeRead(b"", meta["size"], meta["e_tag"], modified)


def _refuse_fork(url: str) -> None:
    if not obstore_works():
        where = redact(url)
        raise ForkedProcessError(f"{where}: cannot be read in this process. {FORKED}", href=where)


def list_objects(bucket: str, prefix: str, config: Mapping[str, Any]) -> Iterator[obstore.ObjectMeta]:
    """Yield all objects of an S3 bucket below a prefix, with size, time and entity tag.

    Args:
        bucket: name of the bucket.
        prefix: path of a folder; empty for the whole bucket.
        config: obstore's S3 configuration. If it has no keys, the environment's are used, or none.

    Raises:
        obstore.exceptions.BaseError: if the store cannot be asked.
        OSError: if obstore does not work in this process.
        ValueError: if ``bucket`` is not a valid name.
    """
    if not _BUCKET_URL.fullmatch(f"s3://{bucket}/key"):
        raise ValueError(f"{bucket!r} is not a bucket's name")
    check_obstore_works()
    retries: Any = {"max_retries": 2, "retry_timeout": timedelta(seconds=20)}
    store = open_s3(bucket, config, {}, retry_config=retries)
    for page in obstore.list(store, prefix or None):
        yield from page


def status_of(error: BaseError | OSError | ValueError) -> int | None:
    """Return the HTTP status in an error of obstore; None for errors that have a class of their own."""
    found = _STATUS.match(str(error))
    return int(found[1]) if found else None


def is_azure_blob(url: str) -> bool:
    """Return whether a URL is the plain address of an object of Azure, without a query, which would be a signature."""
    return _AZURE_HOST.fullmatch(url) is not None


def _translated(error: BaseError | OSError | ValueError, url: str) -> RangeReadError:
    where = redact(url)
    if isinstance(error, RangeReadError):
        return error
    if isinstance(error, NotFoundError | FileNotFoundError):
        return ObjectNotFoundError(f"{where}: the object does not exist", href=where)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
        return AccessDeniedError(f"{where}: access denied; check credentials, requester pays and region", href=where)
    if status_of(error) == 416:
        return RangeReadError(f"{where}: the range lies beyond the end of the object", href=where, status=416)
    # Without the text of the error, because it holds the signed URL of the request.
    return StoreUnavailableError(f"{where}: the object store failed ({type(error).__name__})", href=where)
