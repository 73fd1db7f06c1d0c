"""Define the Dagster graph: assets, checks, jobs, sensors, schedules and resources around the library's functions.

Projects import its public names from :mod:`rasteret_assets.dagster`. Only this package, ``demo`` and ``cli`` import
dagster. A step of a run calls the functions of ``rasteret_assets.pipeline``, and computes nothing itself.

Version 0.2 had no public face: projects imported modules of this package. The paths that its documentation named still
lead to the same objects, with a ``DeprecationWarning``, and will be removed in version 0.4.
"""

import sys
import warnings
from types import ModuleType
from typing import Any, Final

#: Names that projects imported from modules of this package, by module, and what they are called in
#: ``rasteret_assets.dagster``.
_MOVED: Final[dict[str, dict[str, str]]] = {
    "assets": {"collection_assets": "collection_definitions"},
    "build": {"build_definitions": "build_definitions"},
    "celery": {"WatchfulCeleryRunLauncher": "WatchfulCeleryRunLauncher"},
    "partitions": {"partitions_of": "partitions_of"},
    "resources": {
        "BuildOptions": "BuildOptions",
        "FilesystemResource": "FilesystemResource",
        "StorageBackendResource": "StorageBackendResource",
        "default_resources": "default_resources",
    },
}


class _MovedModule(ModuleType):
    """Stand for a module that no longer exists, and hand out its public names with a warning.

    Args:
        name: of the module, as it was imported.
        moved: names that it had, and what they are called in ``rasteret_assets.dagster``.
    """

    def __init__(self, name: str, moved: dict[str, str]) -> None:
        super().__init__(name)
        self._moved = moved

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._moved:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        # Imported when it is asked for: the public face imports this package.
        from rasteret_assets import dagster  # noqa: PLC0415

        new = self._moved[name]
        warnings.warn(
            f"{self.__name__}.{name} will be removed in version 0.4: import rasteret_assets.dagster.{new}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(dagster, new)


for _name, _moved in _MOVED.items():
    # Because ``import_module`` and ``from ... import`` look here for a module before they look for its file.
    sys.modules[f"{__name__}.{_name}"] = globals()[_name] = _MovedModule(f"{__name__}.{_name}", _moved)
