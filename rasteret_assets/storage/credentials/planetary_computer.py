"""Give shared access signatures of Microsoft's Planetary Computer for containers of Azure Blob Storage.

Anybody is given a signature, for about an hour and for a whole container; with a subscription key more often. obstore's
provider asks for it, by the settings that the package ``planetary-computer`` knows too: ``PC_SDK_SUBSCRIPTION_KEY``
and ``PC_SDK_SAS_URL``, in the environment or in ``~/.planetarycomputer/settings.env``.

https://planetarycomputer.microsoft.com/docs/concepts/sas/
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from rasteret_assets.storage.addresses.address import identity_href
from rasteret_assets.storage.credentials.asking import ask
from rasteret_assets.storage.credentials.tokens import Token

if TYPE_CHECKING:
    import aiohttp

# Without http://, because the signature is in the address.
_BLOB: Final = re.compile(r"https://([a-z0-9]+)\.blob\.core\.windows\.net/([a-z0-9$-]+)/[^?#]+")
#: A container as fsspec and obstore name it, which is how Collections name tables of Parquet.
_CONTAINER: Final = re.compile(r"(?s)abfss?://([a-z0-9$-]+)@([a-z0-9]+)\.(?:dfs|blob)\.core\.windows\.net(?:/.*)?")
_ENDPOINT: Final = "https://planetarycomputer.microsoft.com"
#: Accounts whose containers are public, so that no signature is asked for.
_PUBLIC: Final = frozenset({"ai4edatasetspublicassets"})


class PlanetaryComputer:
    """Gives the shared access signature of a container."""

    name = "planetary_computer"
    remedy = "the container may not be open to everyone, or the file lies outside it"

    def scope(self, url: str) -> str | None:
        """Return ``account/container`` of an ``https`` or ``abfs`` address in Azure, whatever signature it has."""
        if (inside := _CONTAINER.fullmatch(url)) is not None:
            container, account = inside.groups()
        elif (match := _BLOB.fullmatch(identity_href(url) if "?" in url else url)) is not None:
            account, container = match.groups()
        else:
            return None
        return None if account in _PUBLIC else f"{account}/{container}"

    def fetch(self, scope: str) -> Token:
        """Return the signature of a container."""
        account, _, container = scope.partition("/")

        async def request(session: aiohttp.ClientSession) -> Token:
            from obstore.auth.planetary_computer import PlanetaryComputerAsyncCredentialProvider  # noqa: PLC0415

            provider = PlanetaryComputerAsyncCredentialProvider(
                account_name=account, container_name=container, session=session
            )
            given = await provider()
            query = given["sas_token"]
            if not isinstance(query, str) or "sig=" not in query or not query.isprintable() or " " in query:
                raise ValueError("not a signature")
            query = query.removeprefix("?")
            return Token(query=query, store={"sas_token": query}, expires_at=given["expires_at"])

        def reason(status: int) -> str:
            if status in {401, 403}:
                return "check the subscription key in PC_SDK_SUBSCRIPTION_KEY"
            if status == 404:
                return f"it knows no container {container!r} of the account {account!r}"
            return "check the address in PC_SDK_SAS_URL"

        who = f"the token endpoint of {self.name}"
        return ask(who, os.environ.get("PC_SDK_SAS_URL") or _ENDPOINT, request, reason)

    def is_login(self, host: str) -> bool:
        """Tell that no redirect of Azure leads to a login."""
        del host
        return False
