"""Tokens that open files: fetched once for everything they open, kept by process, renewed before they expire.

Nothing here is ever written, logged, raised or pickled: what travels to another process is the name of who gives
tokens, and the process asks for its own.
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
from rasteret_assets.storage.processes import OfProcess

# obstore asks for others five minutes before its credentials expire too.
_RENEW_BEFORE_S: Final = 300.0
#: Seconds for which a refusal of the issuer is taken for its answer to those who ask next.
_REFUSED_HOLDS_S: Final = 60.0
#: The same where the issuer could not be asked.
_FAILED_HOLDS_S: Final = 1.0
#: Tokens that are kept; the oldest are forgotten beyond it.
_MOST_KEPT: Final = 4096


@dataclass(frozen=True, kw_only=True, repr=False)
class Token:
    """What opens the files of a scope.

    Args:
        headers: sent with HTTP requests to the host of the file, and to no other.
        query: put behind the address of HTTP requests.
        store: credentials as obstore's providers give them, without ``expires_at``.
        expires_at: when it stops to hold, with a time zone; None where nobody says.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    store: Mapping[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None

    def __bool__(self) -> bool:
        return bool(self.headers or self.query or self.store)


class IssuerError(Exception):
    """No token could be had.

    Args:
        message: one sentence that says why, and what to do; it holds no secret.
        passing: whether asking again may help.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing

    def of_file(self, url: str) -> CredentialsError | StoreUnavailableError:
        """Return the error of a file that the token was needed for."""
        where = redact(url)
        kind = StoreUnavailableError if self.passing else CredentialsError
        return kind(f"{where}: {self}", href=where)


class Issuer(Protocol):
    """Gives tokens. It can be pickled, and holds none."""

    #: As messages name it.
    name: str
    #: What to do about files that a token does not open.
    remedy: str

    def scope(self, url: str) -> str | None:
        """Return the key of everything that the token of an address opens; None where the address needs none."""
        ...

    def fetch(self, scope: str) -> Token:
        """Return a new token. It may take its time, and is called in a thread of its own.

        Raises:
            IssuerError: if there is none.
        """
        ...

    def is_login(self, host: str) -> bool:
        """Tell whether a redirect to a host means that the token was refused."""
        ...


@dataclass
class _Kept:
    """The token of a scope.

    Args:
        token: the last one.
        renew_at: when another is asked for, in seconds since 1970.
        expires_at: when it stops to hold, likewise.
        refusal: why there is none, until ``refusal_until``.
        vain_until: until when files that it does not open are no reason to ask for another.
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
        issuer: gives them.
        clock: seconds since 1970. Tokens expire by the clock on the wall, also while a machine sleeps.
    """

    def __init__(self, issuer: Issuer, clock: Callable[[], float] = time.time) -> None:
        self.issuer = issuer
        self._clock = clock
        self._here = OfProcess(_OfProcess)

    async def get(self, scope: str) -> Token:
        """Return a token that holds; whoever asks for the same scope at the same time waits for the same one.

        Raises:
            IssuerError: if there is none.
        """
        found = self._look(scope)
        return found if isinstance(found, Token) else await asyncio.wrap_future(found)

    async def another(self, scope: str, refused: Token) -> Token | None:
        """Return another token than one that was refused; None where another did not help a moment ago.

        Raises:
            IssuerError: if there is none.
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
        """Remember that a new token did not open a file either, which therefore is not the token's fault."""
        here = self._here.get()
        with here.lock:
            here.by_scope.setdefault(scope, _Kept()).vain_until = self._clock() + _REFUSED_HOLDS_S

    def _look(self, scope: str) -> Token | Future[Token]:
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
                return kept.token  # while its successor is on its way
            assert kept.pending is not None  # noqa: S101  (begun above, or refused)
            return kept.pending

    def _raise_refusal(self, kept: _Kept) -> None:
        """Raise why there is no other token, as long as that is taken for the answer."""
        if kept.refusal is not None and self._clock() < kept.refusal_until:
            raise IssuerError(str(kept.refusal), passing=kept.refusal.passing)

    def _begin(self, scope: str, kept: _Kept) -> Future[Token]:
        """Ask for a token in a thread, which no event loop and no cancelled reader can interrupt."""
        pending: Future[Token] = Future()
        kept.pending = pending
        pending.set_running_or_notify_cancel()  # a reader that gives up does not take it from the others
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
        except BaseException as error:  # noqa: BLE001  (whoever waits must hear of it, or waits for ever)
            # Without its text, which may hold what was asked for.
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
        """Return for how many seconds a new token holds."""
        if token.expires_at is None:
            return float("inf")
        lasts = (token.expires_at - datetime.fromtimestamp(self._clock(), UTC)).total_seconds()
        if lasts <= 0:
            raise IssuerError(
                f"{self.issuer.name} gave credentials that have expired at {token.expires_at:%Y-%m-%d %H:%M:%S%z}: "
                "check the clock of this machine"
            )
        return lasts
