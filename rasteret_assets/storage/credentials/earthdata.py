"""Give tokens of NASA's Earthdata Login: a bearer token for all its web servers, and S3 credentials for its buckets.

The account is that of ``EARTHDATA_TOKEN``, else of ``EARTHDATA_USERNAME`` and ``EARTHDATA_PASSWORD``, else of the netrc
file (``NETRC``, or ``~/.netrc``) for ``urs.earthdata.nasa.gov``, or for the host in ``EARTHDATA_HOST``. With a user and
a password a token is asked for, which holds for weeks. A web server that does not take a token redirects to the login.

https://urs.earthdata.nasa.gov/documentation/for_users/user_token
"""

from __future__ import annotations

import base64
import netrc
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from rasteret_assets.storage.credentials.asking import ask
from rasteret_assets.storage.credentials.tokens import IssuerError, Token
from rasteret_assets.storage.http.answer import is_sendable

if TYPE_CHECKING:
    import aiohttp

#: Ends of the names of hosts to which the token is sent; it is sent to no other host.
_HOSTS: Final = (".earthdata.nasa.gov", ".earthdatacloud.nasa.gov", ".asf.alaska.edu")
#: Addresses that give S3 credentials, by the beginning of the names of an archive's buckets.
_BUCKETS: Final = {
    "gesdisc-cumulus-": "https://data.gesdisc.earthdata.nasa.gov/s3credentials",
    "lp-prod-": "https://data.lpdaac.earthdatacloud.nasa.gov/s3credentials",
    "nsidc-cumulus-": "https://data.nsidc.earthdatacloud.nasa.gov/s3credentials",
    "ornl-cumulus-": "https://data.ornldaac.earthdata.nasa.gov/s3credentials",
    "podaac-": "https://archive.podaac.earthdata.nasa.gov/s3credentials",
}
_HTTPS: Final = "https"


class Earthdata:
    """Gives the bearer token of an account, and S3 credentials for the buckets of an archive."""

    name = "earthdata"
    remedy = (
        "the account may have to accept the terms of the data, or to approve the archive's application, in its profile "
        "at urs.earthdata.nasa.gov; buckets are open within AWS' region us-west-2 only"
    )

    def scope(self, url: str) -> str | None:
        """Return ``https`` for a web server of an archive, the address of S3 credentials for its bucket, else None."""
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError:  # a read refuses such an address
            return None
        if parts.scheme == "https":
            return _HTTPS if host.endswith(_HOSTS) and not parts.username else None
        if parts.scheme in {"s3", "s3a"}:
            return next((address for prefix, address in _BUCKETS.items() if host.startswith(prefix)), None)
        return None

    def fetch(self, scope: str) -> Token:
        """Return the bearer token of the account, or S3 credentials for its token."""
        token = _bearer()
        return token if scope == _HTTPS else _s3_credentials(scope, token)

    def is_login(self, host: str) -> bool:
        """Tell whether a host is that of the login."""
        return host == _login_host().partition(":")[0]


def _login_host() -> str:
    return os.environ.get("EARTHDATA_HOST") or "urs.earthdata.nasa.gov"


def _bearer() -> Token:
    """Return the token of the environment, or the token for user and password."""
    given = os.environ.get("EARTHDATA_TOKEN")
    if given:
        if not is_sendable(given) or " " in given:
            raise IssuerError("EARTHDATA_TOKEN holds a space or a line end, which no token does: set it anew")
        return Token(headers={"Authorization": f"Bearer {given}"})
    user, password = _account()

    address = f"https://{_login_host()}/api/users/find_or_create_token"

    async def request(session: aiohttp.ClientSession) -> Token:
        account = base64.b64encode(f"{user}:{password}".encode()).decode()
        headers = {"Accept": "application/json", "Authorization": f"Basic {account}"}
        async with session.post(address, headers=headers, raise_for_status=True) as answer:
            document = await answer.json(content_type=None)
        token = document["access_token"]
        if not is_sendable(token) or " " in token:
            raise ValueError("not a token")
        # To the end of the day, because the date has no time of day.
        expires = datetime.strptime(document["expiration_date"], "%m/%d/%Y").replace(tzinfo=UTC) + timedelta(days=1)
        return Token(headers={"Authorization": f"Bearer {token}"}, expires_at=expires)

    def reason(status: int) -> str:
        if status in {401, 403}:
            return "it does not know this user and password; check EARTHDATA_USERNAME and EARTHDATA_PASSWORD, or netrc"
        return "check EARTHDATA_HOST"

    return ask(f"Earthdata Login ({_login_host()})", address, request, reason)


def _account() -> tuple[str, str]:
    """Return user and password of the environment, or of the netrc file."""
    user, password = os.environ.get("EARTHDATA_USERNAME"), os.environ.get("EARTHDATA_PASSWORD")
    if user and password:
        return user, password
    host, file = _login_host(), Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    ways = f"set EARTHDATA_TOKEN, or EARTHDATA_USERNAME and EARTHDATA_PASSWORD, or write {host} into {file}"
    try:
        found = netrc.netrc(file).authenticators(host)
    except FileNotFoundError:
        raise IssuerError(f"no account for {host} is given, and the netrc file does not exist: {ways}") from None
    except (netrc.NetrcParseError, OSError, ValueError) as error:
        # Without the text, because it may repeat a line of the file.
        raise IssuerError(f"the netrc file {file} cannot be read ({type(error).__name__}): {ways}") from None
    if found is None or not found[0] or not found[2]:
        raise IssuerError(f"no account for {host} is given, and the netrc file has none: {ways}")
    return found[0], found[2]


def _s3_credentials(address: str, bearer: Token) -> Token:
    """Return the S3 credentials of an archive, which hold for an hour."""
    token = bearer.headers["Authorization"].removeprefix("Bearer ")

    async def request(session: aiohttp.ClientSession) -> Token:
        from obstore.auth.earthdata import NasaEarthdataAsyncCredentialProvider  # noqa: PLC0415

        provider = NasaEarthdataAsyncCredentialProvider(address, auth=token, session=session)
        given = await provider()
        keys = {
            "access_key_id": given["access_key_id"],
            "secret_access_key": given["secret_access_key"],
            "token": given["token"],
        }
        return Token(store=keys, expires_at=given["expires_at"])

    def reason(status: int) -> str:
        if status in {200, 401, 403}:
            return "it does not take the token of this account; check EARTHDATA_TOKEN, or let another be made"
        return "this archive may give S3 credentials elsewhere"

    return ask(address, address, request, reason)
