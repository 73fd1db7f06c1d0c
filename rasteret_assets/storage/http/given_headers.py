"""The headers for a host: those given for all hosts, those given for this host, and the user in its address."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, TypeAlias

from yarl import URL

from rasteret_assets.errors import SpecError
from rasteret_assets.storage.http.origin import Origin

#: Headers by name, or by host and name: ``{"data.example": {"X-Api-Key": "..."}}``.
GivenHeaders: TypeAlias = Mapping[str, "str | Mapping[str, str]"]

# "identity", because a range of a compressed body is not a range of the file.
_DEFAULTS: Final = {"User-Agent": "rasteret-assets", "Accept": "*/*", "Accept-Encoding": "identity"}
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_MOST_ORIGINS: Final = 4096


class HostHeaders:
    """The headers of requests, by the server that gets them.

    Args:
        given: headers for all hosts, headers by host, or both.

    Raises:
        SpecError: if a name, value or host is not valid; the message holds no value.
    """

    def __init__(self, given: GivenHeaders | None = None) -> None:
        self._plain: dict[str, str] = {}
        self._by_host: dict[str, dict[str, str]] = {}
        for name, value in (given or {}).items():
            if isinstance(value, Mapping):
                inside = {inner: checked_header(inner, text) for inner, text in value.items()}
                self._by_host.setdefault(_host_key(name), {}).update(inside)
            else:
                self._plain[name] = checked_header(name, value)
        self._lines: tuple[dict[Origin, bytes], dict[Origin, bytes]] = ({}, {})

    def lines(self, origin: Origin, *, foreign: bool = False) -> bytes:
        """Return the headers of :meth:`of` as lines of a request."""
        lines_of = self._lines[foreign]
        lines = lines_of.get(origin)
        if lines is None:
            if len(lines_of) >= _MOST_ORIGINS:
                lines_of.clear()
            lines = lines_of[origin] = header_lines(self.of(origin, foreign=foreign))
        return lines

    def of(self, origin: Origin, *, foreign: bool = False) -> dict[str, str]:
        """Return the headers for one server.

        Args:
            origin: the server.
            foreign: whether a redirect of another host leads there. Then headers given for all hosts are left out.
        """
        sources = [_DEFAULTS]
        if not foreign:
            sources.append(self._plain)
        if self._by_host:
            authority = origin.authority.decode().lower()
            plain = authority if authority.endswith("]") else authority.rpartition(":")[0] or authority
            keys = dict.fromkeys((plain, authority, f"{plain}:{origin.port}"))
            sources.extend(self._by_host[key] for key in keys if key in self._by_host)
        if origin.user:
            sources.append({"Authorization": origin.user})
        # Names differ without regard to case (RFC 9110, 5.1); of several headers of one name the last is sent.
        chosen = {name.lower(): (name, value) for source in sources for name, value in source.items()}
        return dict(chosen.values())


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Return headers as lines of a request."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()


def checked_header(name: str, value: object) -> str:
    """Return the value of the header ``name``, if a request can hold it.

    Raises:
        SpecError: if the name or value is not valid, for example has a line end; the message does not hold the value.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SpecError(f"{name!r} is not the name of an HTTP header")
    if not isinstance(value, str) or any(letter < " " and letter != "\t" for letter in value) or "\x7f" in value:
        raise SpecError(f"the value given for the HTTP header {name} is not a text, or holds a line end")
    return value


def _host_key(host: str) -> str:
    """Return the key by which a host is looked up: lower case, with its port if one was given.

    Raises:
        SpecError: if ``host`` is not a host.
    """
    try:
        address = URL(f"http://{host}")
        bare = address.raw_host or ""
        valid = bool(bare) and not re.search(r"[/?#@\s]", host)
        port = address.explicit_port
    except ValueError:
        valid, bare, port = False, "", None
    if not valid:
        raise SpecError(f"headers are given by host as {{'data.example': {{...}}}}; {host!r} is not a host")
    name = f"[{bare}]" if ":" in bare else bare
    return (name if port is None else f"{name}:{port}").lower()
