"""Remove secrets from addresses, wherever an address stands: in a column, a text, a message or a JSON document.

:func:`without_secrets` is for texts that are stored and published, :func:`redact` and :func:`redact_text` for messages,
which show no parameter at all. :mod:`~rasteret_assets.secrets.names` decides which names and values are secrets.
"""

from rasteret_assets.secrets.names import BY_DEFAULT, IN_MESSAGES, SecretRule
from rasteret_assets.secrets.texts import (
    MAY_HOLD_ONE,
    redact,
    redact_text,
    shown_names,
    without_secrets,
    without_signature,
    without_user,
)

__all__ = [
    "BY_DEFAULT",
    "IN_MESSAGES",
    "MAY_HOLD_ONE",
    "SecretRule",
    "redact",
    "redact_text",
    "shown_names",
    "without_secrets",
    "without_signature",
    "without_user",
]
