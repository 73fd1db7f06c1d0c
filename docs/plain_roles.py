"""Show names in docstrings as code: ``:func:`~package.module.name``` is written for readers of the code."""

from __future__ import annotations

import re
from typing import Any, Final

import griffe

_ROLE: Final = re.compile(r":(?:py:)?(?:attr|class|data|exc|func|meth|mod):`~?\.?(?:[\w.]*\.)?(\w+)`")


class PlainRoles(griffe.Extension):
    """Replaces the roles of Sphinx, which Markdown does not know, in every docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
