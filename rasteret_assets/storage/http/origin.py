"""Servers and addresses of HTTP requests: a URL taken apart as its author wrote it."""

from __future__ import annotations

import base64
import functools
import re
from dataclasses import dataclass

from yarl import URL

_URL = re.compile(r"(https?://[^/?#]+)([^#]*)", re.IGNORECASE)
_UNSAFE = re.compile(r"[^\x21-\x7e]")


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """A server: scheme, host and port of a URL.

    Compared by identity, because every request looks up its connections by it: :func:`split_url` returns the same
    object for the same server.

    Args:
        secure: whether the server speaks TLS.
        host: name or address.
        port: TCP port.
        authority: host and port as the ``Host`` header writes them.
        user: value of the ``Authorization`` header that the URL's user and password make (RFC 7617); ``""`` for none.
    """

    secure: bool
    host: str
    port: int
    authority: bytes
    user: str = ""


def address_of(origin: Origin, path: str) -> URL:
    """Return the URL of a request, without a user."""
    return URL(f"{'https' if origin.secure else 'http'}://{origin.authority.decode()}{path}", encoded=True)


def is_same_server(one: Origin, other: Origin) -> bool:
    """Return whether ``other`` may get headers meant for ``one``: it is the same server, or the same with TLS now."""
    if one.host != other.host:
        return False
    ports = (one.port, other.port)
    return (one.secure == other.secure and ports[0] == ports[1]) or (other.secure and ports == (80, 443))


def as_written(location: str) -> str:
    """Return a ``Location`` as its server wrote it: in UTF-8, though the head was read as latin-1."""
    try:
        return location.encode("latin-1").decode()
    except UnicodeDecodeError:
        return location


def split_url(url: str) -> tuple[Origin, str]:
    """Return server and path of a URL: escapes stay as written, letters that a request line may not hold are escaped.

    Raises:
        ValueError: if the URL has no host, or no valid port.
    """
    match = _URL.match(url)
    if match is None:
        raise ValueError("not an HTTP URL")
    path = match.group(2) or "/"
    if not path.startswith("/"):
        path = "/" + path
    if _UNSAFE.search(path):
        path = _UNSAFE.sub(lambda part: "".join(f"%{byte:02X}" for byte in part.group().encode()), path)
    return _origin(match.group(1)), path


@functools.lru_cache(maxsize=4096)
def _origin(base: str) -> Origin:
    address = URL(base)
    if not address.host or address.port is None:
        raise ValueError("no host")
    host = address.raw_host or ""
    name = f"[{host}]" if ":" in host else host
    authority = name if address.is_default_port() else f"{name}:{address.port}"
    user = ""
    if address.user is not None or address.password is not None:
        login = f"{address.user or ''}:{address.password or ''}"  # both with their escapes undone
        user = "Basic " + base64.b64encode(login.encode()).decode()
    return Origin(address.scheme == "https", address.host, address.port, authority.encode(), user)
