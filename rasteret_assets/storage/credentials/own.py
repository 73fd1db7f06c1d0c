"""Give the tokens that a function of the user returns: it is called once for every host, bucket and expiry.

::

    def open_archive(place: str) -> dict | None:
        '''Return what opens a place such as "https://data.example" or "s3://bucket"; None where nothing is needed.'''
        return {"headers": {"Authorization": f"Bearer {token}"}, "expires_at": datetime(..., tzinfo=UTC)}

``headers`` or ``query`` serve HTTP; whatever else is there goes to obstore as the credentials of a bucket
(``access_key_id``, ``secret_access_key`` and ``token`` of S3, ``token`` of Google, ``sas_token`` of Azure ...).
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from rasteret_assets.errors import SpecError
from rasteret_assets.storage.addresses.urls import host, scheme
from rasteret_assets.storage.credentials.tokens import IssuerError, Token
from rasteret_assets.storage.http.given_headers import checked_header

_FORM: Final = "a mapping with headers, query or a store's credentials, and expires_at"
#: What obstore needs to open a bucket: one of these sets of keys.
_S3: Final = (frozenset({"access_key_id", "secret_access_key"}),)
_GOOGLE: Final = (frozenset({"token"}),)
_AZURE: Final = (frozenset({"sas_token"}), frozenset({"token"}), frozenset({"access_key"}))
_STORES: Final = {"s3": _S3, "s3a": _S3, "gs": _GOOGLE, "gcs": _GOOGLE}
_OPTIONAL: Final = frozenset({"token"})
_QUERY: Final = re.compile(r"[!-~]+")


class OwnFunction:
    """Gives the tokens that a function returns.

    Args:
        module: in which the function is.
        function: name of the function.

    Raises:
        SpecError: if the module cannot be imported, or has no such function.
    """

    def __init__(self, module: str, function: str) -> None:
        self.name = f"{module}:{function}"
        self.remedy = "see what the function returns"
        self._place = module, function
        imported(module, function)

    def scope(self, url: str) -> str | None:
        """Return scheme and host, or bucket, of an address that is not local."""
        name = host(url)
        return f"{scheme(url)}://{name}" if name else None

    def fetch(self, scope: str) -> Token:
        """Return the token that the function gives for a place."""
        try:
            given = imported(*self._place)(scope)
        except SpecError as error:  # a process may not have the module
            raise IssuerError(str(error)) from None
        except (Exception, SystemExit) as error:  # noqa: BLE001  (it may raise anything)
            # Without the text, because it may hold a secret.
            raise IssuerError(f"{self.name} raised {type(error).__name__} for {scope}") from None
        return Token() if given is None else self._understood(given, scope)

    def is_login(self, host: str) -> bool:
        """Tell that no redirect leads to a login; the token goes to the first host only."""
        del host
        return False

    def _understood(self, given: object, scope: str) -> Token:
        """Return the token that the function returned."""
        wrong = f"{self.name} returned something else than {_FORM} for {scope}"
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise IssuerError(f"{wrong}: it is a {type(given).__name__}")
        rest: dict[str, Any] = dict(given)
        headers, query, expires = (rest.pop(key, None) for key in ("headers", "query", "expires_at"))
        if not (headers or query or rest):
            raise IssuerError(f"{wrong}: nothing is in it; return None for a place that needs nothing")
        if expires is not None and (not isinstance(expires, datetime) or expires.tzinfo is None):
            raise IssuerError(f"{wrong}: expires_at is not a datetime with a time zone")
        if query is not None and not (isinstance(query, str) and _QUERY.fullmatch(query) and "#" not in query):
            raise IssuerError(f"{wrong}: query is not a text that may stand behind an address")
        if (problem := _misplaced(scope, rest, on_web=bool(headers or query))) is not None:
            raise IssuerError(f"{wrong}: {problem}")
        try:
            checked = {name: checked_header(name, value) for name, value in dict(headers or {}).items()}
        except (SpecError, ValueError, TypeError) as error:
            reason = str(error) if isinstance(error, SpecError) else "headers are not a mapping"
            raise IssuerError(f"{wrong}: {reason}") from None
        return Token(headers=checked, query=(query or "").removeprefix("?"), store=rest, expires_at=expires)


def _misplaced(scope: str, store: Mapping[str, Any], *, on_web: bool) -> str | None:
    """Return why credentials do not fit a place; None if they fit.

    Args:
        scope: the place.
        store: the credentials for obstore.
        on_web: whether the function also gave headers or a query.
    """
    kind = scope.partition("://")[0]
    if kind in {"http", "https"}:
        return f"{sorted(store)} open a bucket, and this is a web server" if store else None
    if on_web:
        return "headers and query are for web servers, and this is a bucket"
    forms = _STORES.get(kind, _AZURE)
    if any(needs <= store.keys() <= needs | _OPTIONAL for needs in forms):
        return None
    return f"a bucket of {kind}:// is opened by {' or by '.join(' and '.join(sorted(needs)) for needs in forms)}"


def imported(module: str, function: str) -> Callable[[str], object]:
    """Return a function by the names of its module and itself.

    Raises:
        SpecError: if the module or the function does not exist.
    """
    name = f"credentials: {{{module}: {function}}}"
    try:
        found = getattr(importlib.import_module(module), function, None)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (what runs on import may raise anything)
        # The text of an ImportError only, because it names the missing package; other texts may hold a secret.
        reason = f": {error}" if isinstance(error, ImportError) else ""
        raise SpecError(f"{name}: the module cannot be imported ({type(error).__name__}{reason})") from None
    if not callable(found):
        what = "has no such name" if found is None else "has something of this name that cannot be called"
        raise SpecError(f"{name}: the module {what}")
    made: Callable[[str], object] = found
    return made
