"""Where a command finds collections, and how it opens their files.

Declarations are the YAML files of a folder. Files are opened as their paths say, with the credentials of the
environment; or, where a code location is named as ``dagster`` has it (``-f definitions.py``, ``-m
package.definitions``), with its resources ``rasteret_filesystem`` and ``rasteret_backend``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rasteret_assets.cli import library

if TYPE_CHECKING:
    from rasteret_assets.cli._code_location import CodeLocation
    from rasteret_assets.source.open import Source
    from rasteret_assets.spec import CollectionSpec
    from rasteret_assets.storage.backend import StorageBackend
    from rasteret_assets.storage.workspace import Workspace

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Location:
    """What the options of a command say about collections and their files.

    Args:
        folder: of the declarations.
        python_file: of a code location.
        module_name: of a code location.
    """

    folder: Path | None = None
    python_file: Path | None = None
    module_name: str | None = None

    @cached_property
    def code(self) -> CodeLocation | None:
        """The code location; None where the options name none."""
        if self.python_file is None and self.module_name is None:
            return None
        return library.load_code_location(self.python_file, self.module_name)

    @property
    def resources(self) -> dict[str, Any]:
        """Resources for the graph, by key, as the code location defines them."""
        return {} if self.code is None else self.code.resources

    @property
    def declarations(self) -> Path:
        """Folder of declarations, which need not exist."""
        if given := self.folder or os.environ.get(library.COLLECTIONS_VARIABLE):
            return Path(given)
        if self.code is not None and (beside := self.code.folder / "collections").is_dir():
            return beside
        return Path("collections")

    def files(self, names: Sequence[str] = ()) -> list[Path]:
        """Return the YAML files among ``names``, or all files of the folder where no name is given.

        Raises:
            UsageError: if a file or the folder does not exist, or the folder has no file.
        """
        if names:
            return [_existing(name) for name in names if _is_file(name)]
        folder = self.declarations
        if not folder.is_dir():
            raise click.UsageError(
                f"no folder of declarations at {folder}: name a YAML file, or the folder with --collections; "
                "rasteret-assets init TABLE writes a first declaration"
            )
        found = [path for path in sorted(folder.iterdir()) if path.suffix in _SUFFIXES]
        if not found:
            raise click.UsageError(
                f"{folder} holds no YAML file; rasteret-assets init TABLE writes one that declares a collection"
            )
        return found

    def specs(self, names: Sequence[str] = ()) -> list[CollectionSpec]:
        """Return collections by YAML file or by name; all of the folder where no name is given.

        Raises:
            UsageError: if a file, name or the folder does not exist.
            SpecError: naming file, line and field of every mistake.
        """
        specs = [library.read_spec(file) for file in self.files(names)] if names else []
        wanted = [name for name in names if not _is_file(name)]
        if names and not wanted:
            return specs
        declared = {spec.name: spec for spec in library.read_files(self.files())}
        if unknown := [name for name in wanted if name not in declared]:
            raise click.UsageError(
                f"{self.declarations} declares no collection {', '.join(unknown)}; it has {', '.join(declared)}"
            )
        return [*specs, *(declared[name] for name in wanted)] if names else list(declared.values())

    def published(self, name: str) -> str:
        """Return where a collection is published: the path or URI given, or that of a declaration by file or name.

        Raises:
            UsageError: if ``name`` is neither a path nor the name of a declared collection.
        """
        if not _is_file(name) and ("/" in name or Path(name).exists()):
            return name
        (spec,) = self.specs([name])
        return str(spec.published_path)

    def filesystem_of(self, path: str) -> Any:
        """Return the filesystem that the code location has for a path; None for the one that the path itself names."""
        return None if self.code is None else self.code.filesystem.filesystem(path)

    def workspace_of(self, spec: CollectionSpec) -> Workspace:
        """Return the workspace of a declared collection."""
        return library.Workspace.of(spec, self.filesystem_of(str(spec.published_path)))

    def workspace_at(self, place: str) -> Workspace:
        """Return the workspace of a collection that is published at a path or URI."""
        return library.Workspace.at(place, self.filesystem_of(place))

    def source_of(self, spec: CollectionSpec, workspace: Workspace, *, trust_stored: bool = True) -> Source:
        """Open the record table of a collection, as :func:`~rasteret_assets.source.stored.open_record_table` does."""
        return library.open_record_table(workspace, spec.path, spec, self.filesystem_of, trust_stored=trust_stored)

    def backend_of(self, spec: CollectionSpec) -> StorageBackend | None:
        """Return the backend that the code location has for a collection; None for the library's own."""
        return None if self.code is None else self.code.backend.backend(spec)


collections_option = click.option(
    "--collections", "folder", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of declarations.  [default: $RASTERET_ASSETS_COLLECTIONS, else collections beside the code location, "
    "else ./collections]",
)  # fmt: skip


def located(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say where collections and their files are, as one argument ``location``."""

    @collections_option
    @click.option(
        "--python-file", "-f", type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="Python file of a Dagster code location; its rasteret_filesystem and rasteret_backend open files.",
    )  # fmt: skip
    @click.option("--module-name", "-m", metavar="MODULE", help="Module of a Dagster code location, instead of a file.")
    @wraps(command)
    def run(*args: Any, folder: Path | None, python_file: Path | None, module_name: str | None, **kwargs: Any) -> None:
        if python_file is not None and module_name is not None:
            raise click.UsageError("--python-file and --module-name name two code locations: give one of them")
        command(*args, location=Location(folder, python_file, module_name), **kwargs)

    return run


def _is_file(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _existing(name: str) -> Path:
    if not Path(name).is_file():
        raise click.UsageError(f"{name}: no such file")
    return Path(name)
