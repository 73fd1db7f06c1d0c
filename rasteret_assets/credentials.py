"""Check the ``credentials`` of a declaration, which name who opens the files of a collection.

Two providers have names. Any other provider is a function of the user, as a mapping of its module to its name::

    credentials: planetary_computer
    credentials: earthdata
    credentials: {my_package.tokens: open_archive}

Declarations and published files hold names only, never a token. :mod:`rasteret_assets.storage.credentials` gives the
tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Final, TypeAlias

from pydantic import BeforeValidator, WithJsonSchema

#: Providers whose tokens this package fetches itself.
PLANETARY_COMPUTER: Final = "planetary_computer"
EARTHDATA: Final = "earthdata"
PROVIDERS: Final = (PLANETARY_COMPUTER, EARTHDATA)

_IDENTIFIER: Final = r"[A-Za-z_][A-Za-z0-9_]*"
_MODULE: Final = re.compile(rf"{_IDENTIFIER}(\.{_IDENTIFIER})*")
_FUNCTION: Final = re.compile(_IDENTIFIER)
_FORM: Final = (
    f"write {PLANETARY_COMPUTER}, {EARTHDATA}, or the module and the name of a function of yours, such as "
    "{my_package.tokens: open_archive}"
)


def checked_credentials(value: object) -> str | dict[str, str] | None:
    """Return checked ``credentials``.

    Args:
        value: one of :data:`PROVIDERS`, a mapping of one module to one function in it, or None.

    Raises:
        ValueError: if ``value`` is something else. The message does not repeat the text, which might be a token.
    """
    if value is None or (isinstance(value, str) and value in PROVIDERS):
        return value
    if isinstance(value, str):
        raise ValueError(f"credentials are named, not given, and no provider has this name: {_FORM}")  # noqa: TRY004
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(f"credentials are not understood: {_FORM}")
    ((module, function),) = value.items()
    fits = isinstance(module, str) and isinstance(function, str)
    if not fits or not _MODULE.fullmatch(module) or not _FUNCTION.fullmatch(function):
        raise ValueError(f"credentials do not name a module and a function of Python: {_FORM}")
    return {module: function}


#: ``planetary_computer``, ``earthdata`` or ``{module: function}``.
Credentials: TypeAlias = Annotated[
    str | dict[str, str],
    BeforeValidator(checked_credentials),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(PROVIDERS)},
                {
                    "type": "object",
                    "minProperties": 1,
                    "maxProperties": 1,
                    "propertyNames": {"pattern": f"^({_MODULE.pattern})$"},
                    "additionalProperties": {"type": "string", "pattern": f"^({_FUNCTION.pattern})$"},
                },
            ]
        }
    ),
]


def credentials_text(credentials: str | Mapping[str, str]) -> str:
    """Return credentials as messages and footers name them: ``earthdata``, or ``my_package.tokens:open_archive``."""
    return credentials if isinstance(credentials, str) else ":".join(*credentials.items())


def credentials_key(credentials: str | Mapping[str, str] | None) -> str:
    """Return a text that is the same for equal credentials and different for others."""
    return json.dumps(credentials if credentials is None or isinstance(credentials, str) else dict(credentials))
