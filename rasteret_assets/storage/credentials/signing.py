"""Sign reads with the token of the file's scope, and once more with another token if the first is refused."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from rasteret_assets.errors import AccessDeniedError
from rasteret_assets.secrets import redact
from rasteret_assets.storage.addresses.address import identity_href
from rasteret_assets.storage.credentials.tokens import Issuer, IssuerError, Token, Tokens

T = TypeVar("T")

#: Statuses that mean that the token of a request does not open the file.
REFUSALS: Final = frozenset({401, 403})


class Signer:
    """Signs reads with the tokens of an issuer. A pickled signer holds no token.

    Args:
        issuer: gives the tokens.
    """

    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self._tokens = Tokens(issuer)

    async def read(self, url: str, ask: Callable[[Token | None], Awaitable[T]], status: Callable[[T], int]) -> T:
        """Return the answer to a request, which is signed where the address needs a token.

        Args:
            url: of the file, unsigned.
            ask: makes the request with a token, or unsigned for None.
            status: returns the HTTP status of an answer.

        Raises:
            CredentialsError: if the issuer gives no token.
            AccessDeniedError: if a second token does not open the file either.
            StoreUnavailableError: if the issuer cannot be asked at the moment.
        """
        scope = self.issuer.scope(url)
        if scope is None:
            return await ask(None)
        if "?" in url and identity_href(url) != url:
            # First with the signature in the address, which is valid unless the table was written long ago.
            answer = await ask(None)
            if status(answer) not in REFUSALS:
                return answer
        try:
            token = await self._tokens.get(scope)
            if not token:
                return await ask(None)
            answer = await ask(token)
            if status(answer) not in REFUSALS:
                return answer
            other = await self._tokens.another(scope, token)
        except IssuerError as error:
            raise error.of_file(url) from None
        if other is not None:
            answer = await ask(other)
            if status(answer) not in REFUSALS:
                return answer
            self._tokens.note_in_vain(scope)
        where, name, refused = redact(url), self.issuer.name, status(answer)
        raise AccessDeniedError(
            f"{where}: HTTP {refused} although the request was signed, also with renewed credentials of {name}: "
            f"{self.issuer.remedy}",
            href=where,
            status=refused,
        )
