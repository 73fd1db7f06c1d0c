"""The default backend: one object that reads local files, HTTP(S) and object stores, by the scheme of each href."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from rasteret_assets.errors import RangeReadError, SpecError
from rasteret_assets.secrets import redact
from rasteret_assets.spec import CloudConfig
from rasteret_assets.storage.addresses.gdal import remedy_for_address
from rasteret_assets.storage.addresses.urls import scheme
from rasteret_assets.storage.backend import EndsRead, RangeRead, ReadingBackend, Validators
from rasteret_assets.storage.credentials import open_credentials
from rasteret_assets.storage.local import LocalBackend
from rasteret_assets.storage.object_stores.objects import OBJECT_SCHEMES, ObjectStoreBackend, is_azure_blob
from rasteret_assets.storage.unchanged import IndexedFile

if TYPE_CHECKING:
    from rasteret_assets.storage.credentials.signing import Signer
    from rasteret_assets.storage.http.http_backend import HttpBackend
    from rasteret_assets.storage.object_stores.objects import CredentialProvider


class AutoBackend(ReadingBackend):
    """Reads every href by the backend of its scheme.

    Args:
        objects: reads ``s3://``, ``gs://`` and ``az://`` hrefs.
        headers: sent with every HTTP request, or by host.
        proxy: address of the HTTP proxy to go through; None for the proxy that the environment names.
        signs_azure: whether ``https`` hrefs of Azure Blob Storage go to ``objects``, which holds their credentials.
            Hrefs with a query, such as a signature of their own, never do.
        link_local: whether names of HTTP hosts may lead to link-local addresses.
        signer: signs the HTTP requests of addresses that need a token.
    """

    def __init__(
        self,
        objects: ObjectStoreBackend,
        headers: Mapping[str, str | Mapping[str, str]] | None = None,
        *,
        proxy: str | None = None,
        signs_azure: bool = False,
        link_local: bool = False,
        signer: Signer | None = None,
    ) -> None:
        self._signer = signer
        self.objects = objects
        self._local = LocalBackend()
        self._headers = dict(headers or {})
        self._proxy = proxy
        self._signs_azure = signs_azure
        self._link_local = link_local
        self._http: HttpBackend | None = None
        if headers:
            self._http_backend()  # refuses invalid headers where they are given, not at the first read

    async def get_ranges(self, url: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each ``(start, length)``."""
        return [bytes(data) for data in await self._route(url).get_ranges(url, ranges)]

    async def read(self, url: str, start: int, length: int) -> RangeRead:
        """Return one range with the object's size and validators."""
        return await self._route(url).read(url, start, length)

    async def read_ends(self, url: str, head: int, tail: int) -> EndsRead:
        """Return the first ``head`` and the last ``tail`` bytes, in one request where the store allows it."""
        return await self._route(url).read_ends(url, head, tail)

    async def read_if_changed(self, url: str, start: int, length: int, validators: Validators) -> RangeRead | None:
        """Return one range, or None where the object still has ``validators``."""
        return await self._route(url).read_if_changed(url, start, length, validators)

    async def read_unchanged(self, url: str, start: int, length: int, indexed: IndexedFile) -> RangeRead:
        """Return one range of the indexed file.

        Raises:
            FileReplacedError: if the file at ``url`` is another than the indexed one.
            RangeReadError: in the subclass that fits any other failure.
        """
        return await self._route(url).read_unchanged(url, start, length, indexed)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        if self._http is not None:
            await close_backend(self._http)

    def new_http(self, *, link_local: bool) -> HttpBackend:
        """Return another client for HTTP, with the same headers, proxy and signer, and connections of its own."""
        # An HTTP client takes time to import, and only HTTP hrefs need one.
        from rasteret_assets.storage.http.http_backend import HttpBackend  # noqa: PLC0415

        return HttpBackend(self._headers, self._proxy, link_local=link_local, signer=self._signer)

    def _http_backend(self) -> HttpBackend:
        self._http = self.new_http(link_local=self._link_local)
        return self._http

    def _route(self, url: str) -> HttpBackend | LocalBackend | ObjectStoreBackend:
        kind = scheme(url)
        if kind in {"http", "https"}:
            if self._signs_azure and is_azure_blob(url):
                return self.objects
            return self._http or self._http_backend()
        if (written := remedy_for_address(url)) is not None:
            raise RangeReadError(f"{redact(url)}: {written}", href=redact(url))
        if kind in OBJECT_SCHEMES:
            return self.objects
        if kind == "file" or (not kind and url.startswith(("/", "~"))):
            return self._local
        where = redact(url)
        if kind:
            reason = f"scheme {kind!r} is not readable; give a backend that reads it, or use url_rewrite_patterns"
        else:
            reason = "a relative href; use url_rewrite_patterns to put the folder or host before it"
        raise RangeReadError(f"{where}: {reason}", href=where)


def create_backend(
    credential_provider: CredentialProvider | None = None,
    cloud_config: CloudConfig | None = None,
    region: str | None = None,
    default_s3_config: Mapping[str, object] | None = None,
    *,
    headers: Mapping[str, str | Mapping[str, str]] | None = None,
    proxy: str | None = None,
    link_local: Literal["refuse", "allow"] = "refuse",
    credentials: str | Mapping[str, str] | None = None,
) -> AutoBackend:
    """Return a backend that reads every kind of href.

    Args:
        credential_provider: an obstore credential provider (Planetary Computer, Earthdata, boto3 ...); without one S3
            uses the environment's credentials, or unsigned requests where there are none.
        cloud_config: adds requester pays and the region to the S3 buckets that its ``url_patterns`` lead to.
        region: region of S3 buckets; the same as ``default_s3_config={"region": ...}``.
        default_s3_config: obstore S3 configuration for every bucket, such as ``{"endpoint": "http://..."}``.
        headers: sent with every HTTP request, such as ``{"Authorization": "Bearer ..."}``: to all hosts that the
            addresses of a collection name, and to no host that only a redirect names. Headers given by host,
            ``{"data.example": {"X-Api-Key": "..."}}`` (or ``"data.example:8443"``), are sent to that host only, and
            take precedence over headers for all hosts; both may be given together. An address with a user and a
            password (``https://user:password@data.example/x.tif``) is asked for with these (Basic, RFC 7617), whatever
            else is given as ``Authorization``, and no other host sees them.
        proxy: address of the proxy for HTTP(S), such as ``http://user:password@host:3128``; the environment's
            (``http_proxy``, ``https_proxy``, ``no_proxy``) when omitted.
        link_local: whether names of HTTP hosts may lead to link-local addresses and to the metadata services of clouds,
            as the field of a spec says of the addresses in a table. Behind a proxy the proxy looks names up.
        credentials: who gives tokens for files, as in a spec: ``"planetary_computer"``, ``"earthdata"``, or a function
            of yours as ``{"module": "function"}``. Every process fetches its own tokens when it first needs them.

    Returns:
        A backend with ``get_range``, ``get_ranges`` and ``read``; safe to share between builds and reads.

    Raises:
        SpecError: if a header or its host is not valid, or ``credentials`` does not name a function.
    """
    if credential_provider is not None and credentials is not None:
        raise SpecError("credential_provider and credentials both open files: give one of them")
    signer = open_credentials(credentials)
    s3_config = dict(default_s3_config or {})
    if region is not None:
        s3_config.setdefault("region", region)
    buckets: dict[str, dict[str, object]] = {}
    if cloud_config is not None:
        payer = {"request_payer": True} if cloud_config.requester_pays else {}
        for target in cloud_config.url_patterns.values():
            if scheme(target) in {"s3", "s3a"}:
                buckets[target.split("/")[2]] = {"region": cloud_config.region, **payer}
        if cloud_config.requester_pays:
            s3_config = {"region": cloud_config.region, **payer, **s3_config}
    objects = ObjectStoreBackend(credential_provider, s3_config, buckets, signer)
    return AutoBackend(
        objects, headers, proxy=proxy, signs_azure=credential_provider is not None, link_local=link_local == "allow",
        signer=signer,
    )  # fmt: skip


async def close_backend(backend: object) -> None:
    """Close the connections of a backend in the running event loop; do nothing if it has no ``aclose``."""
    aclose = getattr(backend, "aclose", None)
    if aclose is not None:
        await aclose()
