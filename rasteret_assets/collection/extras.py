"""Import packages that only some ways of reading need, and name their extra where they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from rasteret_assets.errors import MissingExtraError


def optional(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its name, such as ``"dask.array"``.
        extra: the extra of this package that installs it, as ``pyproject.toml`` has it.
        purpose: the method that needs it, for the message: ``"get_xarray"``.

    Raises:
        MissingExtraError: if the package is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs {module.partition('.')[0]}: pip install 'rasteret-assets[{extra}]'"
        ) from error
