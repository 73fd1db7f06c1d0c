"""Tokens that open files: fetched once for all files of a scope, kept by process, renewed before they expire.

No token is ever written, logged, raised or pickled. Another process gets the name of the issuer, and asks for tokens of
its own.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from rasteret_assets.errors import CredentialsError, StoreUnavailableError
from rasteret_assets.secrets import redact
from rasteret_assets.storage.process.processes import OfProcess

# Seconds before a token expires at which another is asked for; as in obstore.
_RENEW_BEFORE_S: Final = 300.0
#: Seconds for which a refusal of the issuer is the answer to further requests for the same token.
_REFUSED_HOLDS_S: Final = 60.0
#: The same in seconds if the issuer could not be asked.
_FAILED_HOLDS_S: Final = 1.0
#: Most tokens that are kept; then the oldest are dropped.
_MOST_KEPT: Final = 4096


@dataclass(frozen=True, kw_only=True, repr=False)
class Token:
    """Opens the files of a scope.

    Args:
        headers: sent with HTTP requests to the host of the file, and to no other host.
        query: appended to the address of HTTP requests.
        store: credentials as obstore's providers give them, without ``expires_at``.
        expires_at: time at which the token expires, with a time zone; None where the issuer does not tell.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    store: Mapping[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None

    def __bool__(self) -> bool:
        return bool(self.headers or self.query or self.store)


class IssuerError(Exception):
    """The issuer gave no token.

    Args:
        message: one sentence that says why, and what to do, without any secret.
        passing: whether asking again may help.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing

    def of_file(self, url: str) -> CredentialsError | StoreUnavailableError:
        """Return the error of the file at ``url``, for which the token was needed."""
        where = redact(url)
        kind = StoreUnavailableError if self.passing else CredentialsError
        return kind(f"{where}: {self}", href=where)


class Issuer(Protocol):
    """Gives tokens. An issuer can be pickled and holds no token."""

    #: Name of the issuer in messages.
    name: str
    #: What to do about files that a token does not open, for messages.
    remedy: str

    def scope(self, url: str) -> str | None:
        """Return a key for all files that the token of ``url`` opens; None where the address needs no token."""
        ...

    def fetch(self, scope: str) -> Token:
        """Return a new token. Called in a thread of its own, so the call may take long.

        Raises:
            IssuerError: if the issuer gives no token.
        """
        ...

    def is_login(self, host: str) -> bool:
        """Return whether a redirect to ``host`` means that the token was refused."""
        ...


@dataclass
class _Kept:
    """The token of a scope. Times are in seconds since 1970.

    Args:
        token: the last token.
        renew_at: time from which another token is asked for.
        expires_at: time at which ``token`` expires.
        refusal: answer of the issuer in place of a token, which holds until ``refusal_until``.
        refusal_until: time from which the issuer is asked again.
        vain_until: time until which a file that ``token`` does not open is not a reason to ask for another token.
        pending: the token that is being asked for.
    """

    token: Token | None = None
    renew_at: float = float("inf")
    expires_at: float = float("inf")
    refusal: IssuerError | None = None
    refusal_until: float = 0.0
    vain_until: float = 0.0
    pending: Future[Token] | None = None


class _OfProcess:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.by_scope: dict[str, _Kept] = {}


class Tokens:
    """The tokens of an issuer in this process, for all its threads and event loops.

    Args:
        issuer: gives the tokens.
        clock: returns seconds since 1970, because tokens expire also while a machine sleeps.
    """

    def __init__(self, issuer: Issuer, clock: Callable[[], float] = time.time) -> None:
        self.issuer = issuer
        self._clock = clock
        self._here = OfProcess(_OfProcess)

    async def get(self, scope: str) -> Token:
        """Return a valid token; callers who ask for the same scope at the same time wait for the same token.

        Raises:
            IssuerError: if the issuer gives no token.
        """
        found = self._kept_or_asked(scope)
        return found if isinstance(found, Token) else await asyncio.wrap_future(found)

    async def another(self, scope: str, refused: Token) -> Token | None:
        """Return another token than ``refused``; None where another token did not help within the last minute.

        Raises:
            IssuerError: if the issuer gives no token.
        """
        here = self._here.get()
        with here.lock:
            kept = here.by_scope.setdefault(scope, _Kept())
            if kept.token is not None and kept.token is not refused:
                return kept.token
            if kept.pending is None:
                if self._clock() < kept.vain_until:
                    return None
                self._raise_refusal(kept)
            pending = kept.pending or self._begin(scope, kept)
        return await asyncio.wrap_future(pending)

    def note_in_vain(self, scope: str) -> None:
        """Note that a new token did not open a file either, so that the file's rights are at fault, not the token."""
        here = self._here.get()
        with here.lock:
            here.by_scope.setdefault(scope, _Kept()).vain_until = self._clock() + _REFUSED_HOLDS_S

    def _kept_or_asked(self, scope: str) -> Token | Future[Token]:
        here, now = self._here.get(), self._clock()
        with here.lock:
            kept = here.by_scope.get(scope)
            if kept is None:
                while len(here.by_scope) >= _MOST_KEPT:
                    del here.by_scope[next(iter(here.by_scope))]
                kept = here.by_scope[scope] = _Kept()
            if kept.token is not None and now < kept.renew_at:
                return kept.token
            holds = kept.token is not None and now < kept.expires_at
            if kept.pending is None:
                if not holds:
                    self._raise_refusal(kept)
                if now >= kept.refusal_until:
                    self._begin(scope, kept)
            if kept.token is not None and holds:
                return kept.token  # while the next token is on its way
            assert kept.pending is not None  # noqa: S101  (begun above, or refused)
            return kept.pending

    def _raise_refusal(self, kept: _Kept) -> None:
        """Raise the last refusal of the issuer, as long as it holds."""
        if kept.refusal is not None and self._clock() < kept.refusal_until:
            raise IssuerError(str(kept.refusal), passing=kept.refusal.passing)

    def _begin(self, scope: str, kept: _Kept) -> Future[Token]:
        """Ask for a token in a thread, which neither an event loop nor a cancelled reader can interrupt."""
        pending: Future[Token] = Future()
        kept.pending = pending
        pending.set_running_or_notify_cancel()  # so that a reader that gives up does not cancel it for the others
        thread = threading.Thread(
            target=self._fetch, args=(scope, kept, pending), name="rasteret-assets-token", daemon=True
        )
        thread.start()
        return pending

    def _fetch(self, scope: str, kept: _Kept, pending: Future[Token]) -> None:
        here = self._here.get()
        try:
            token = self.issuer.fetch(scope)
            lasts = self._lasts(token)
        except IssuerError as error:
            self._refuse(kept, pending, error)
        except BaseException as error:  # noqa: BLE001  (readers who wait must hear of it, or they wait for ever)
            # Without the text of the error, which may hold the address that was asked.
            kind = type(error).__name__
            self._refuse(kept, pending, IssuerError(f"no credentials of {self.issuer.name}: {kind}", passing=True))
        else:
            with here.lock:
                now = self._clock()
                kept.token, kept.pending, kept.refusal, kept.refusal_until = token, None, None, 0.0
                kept.expires_at = now + lasts
                kept.renew_at = kept.expires_at - min(_RENEW_BEFORE_S, lasts / 2)
            pending.set_result(token)

    def _refuse(self, kept: _Kept, pending: Future[Token], error: IssuerError) -> None:
        with self._here.get().lock:
            kept.pending, kept.refusal = None, error
            kept.refusal_until = self._clock() + (_FAILED_HOLDS_S if error.passing else _REFUSED_HOLDS_S)
        pending.set_exception(error)

    def _lasts(self, token: Token) -> float:
        """Return for how many seconds a new token is valid."""
        if token.expires_at is None:
            return float("inf")
        lasts = (token.expires_at - datetime.fromtimestamp(self._clock(), UTC)).total_seconds()
        if lasts <= 0:
            raise IssuerError(
                f"{self.issuer.name} gave credentials that have expired at {token.expires_at:%Y-%m-%d %H:%M:%S%z}: "
                "check the clock of this machine"
            )
        return lasts
