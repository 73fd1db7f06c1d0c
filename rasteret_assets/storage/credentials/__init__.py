"""Give the tokens that the ``credentials`` of a declaration name: one module for each provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rasteret_assets.credentials import EARTHDATA, PLANETARY_COMPUTER, checked_credentials
from rasteret_assets.errors import SpecError
from rasteret_assets.storage.credentials.earthdata import Earthdata
from rasteret_assets.storage.credentials.own import OwnFunction
from rasteret_assets.storage.credentials.planetary_computer import PlanetaryComputer
from rasteret_assets.storage.credentials.signing import Signer
from rasteret_assets.storage.credentials.tokens import Issuer


def open_credentials(credentials: str | Mapping[str, str] | None) -> Signer | None:
    """Return the signer of a backend's requests; None if ``credentials`` is None.

    Args:
        credentials: as in a declaration.

    Raises:
        SpecError: if ``credentials`` has another form, or names a function that cannot be imported.
    """
    if credentials is None:
        return None
    if isinstance(credentials, str) and ":" in credentials:  # a function, as a footer names it
        module, _, function = credentials.partition(":")
        raise SpecError(
            f"the files of this collection are opened by {credentials}, a function that is not imported on the word of "
            f"a file: allow it by load(..., credentials={{{module!r}: {function!r}}})"
        )
    try:
        checked: Any = checked_credentials(credentials)
    except ValueError as error:
        raise SpecError(f"credentials: {error}") from None
    issuer: Issuer
    if checked == PLANETARY_COMPUTER:
        issuer = PlanetaryComputer()
    elif checked == EARTHDATA:
        issuer = Earthdata()
    else:
        ((module, function),) = checked.items()
        issuer = OwnFunction(module, function)
    return Signer(issuer)
