"""Turn failures of requests and connections into errors of this package, which name the address without its query."""

from __future__ import annotations

import socket
import ssl

from rasteret_assets.errors import (
    BadAnswerError,
    HostUnreachableError,
    LinkLocalRefusedError,
    RangeReadError,
    ReadTimeoutError,
    StoreUnavailableError,
    TruncatedReadError,
    WrongRangeError,
)
from rasteret_assets.secrets import redact
from rasteret_assets.storage.addresses.link_local import LinkLocalNameError
from rasteret_assets.storage.http.body import MalformedError, OverlongError
from rasteret_assets.storage.http.origin import Origin


def read_error(error: Exception, origin: Origin, url: str, *, longest: int) -> RangeReadError:
    """Return the error to raise for a request, given the failure of its client.

    Args:
        error: raised by the client.
        origin: server that was asked.
        url: address that the error names.
        longest: bytes that were asked for.
    """
    where = redact(url)
    match error:
        case TimeoutError():
            return ReadTimeoutError(f"{where}: no answer in time", href=where)
        case EOFError():
            return TruncatedReadError(f"{where}: the body ended before its announced length", href=where)
        case OSError():
            return _connection_error(error, origin, where)
        case OverlongError():
            return WrongRangeError(f"{where}: asked for {longest} bytes: {error}", href=where, status=206)
        case MalformedError():
            return BadAnswerError(f"{where}: {error}", href=where)
    return RangeReadError(f"{where}: not a valid URL", href=where)


def _connection_error(error: OSError, origin: Origin, where: str) -> RangeReadError:
    """Return the error to raise for a failed connection; ``where`` is the address without its query."""
    at = f"{origin.host}:{origin.port}"
    if isinstance(error, LinkLocalNameError):
        return LinkLocalRefusedError(
            f"{where}: the name {origin.host!r} leads to a service of this machine or its network, such as a cloud's "
            "metadata; link_local: allow in the spec, or create_backend(link_local='allow'), lets it be asked",
            href=where,
        )
    if isinstance(error, socket.gaierror):
        return HostUnreachableError(f"{where}: host {origin.host!r} is not known", href=where)
    if isinstance(error, ssl.SSLCertVerificationError):
        return HostUnreachableError(f"{where}: certificate of {origin.host!r} is not trusted", href=where)
    if isinstance(error, ConnectionRefusedError):
        return HostUnreachableError(f"{where}: cannot connect to {at} (connection refused)", href=where)
    if isinstance(error, ConnectionError | ssl.SSLError):
        return StoreUnavailableError(f"{where}: the connection to {at} failed ({type(error).__name__})", href=where)
    reason = error.strerror or type(error).__name__
    return HostUnreachableError(f"{where}: cannot connect to {at} ({reason})", href=where)
