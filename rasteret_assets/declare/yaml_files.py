"""Read collections from YAML files whose fields are those of ``CollectionSpec``.

    # collections/sentinel2.yaml
    path: s3://bucket/items.parquet
    enrich_cog: true

Every mistake is reported with file, line and field, and with what to write instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from rasteret_assets.errors import DeclarationError, Mistake, SpecError
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.spec_problems import explain

COLLECTIONS_VARIABLE = "RASTERET_ASSETS_COLLECTIONS"
#: Entries of a file at most, far more than a person writes. Aliases can make millions of entries of a few lines.
_MOST_ENTRIES: Final = 100_000
DEMO_COLLECTIONS = Path("rasteret_demo") / "collections"


@dataclass(frozen=True, kw_only=True)
class Declarations:
    """The collections that some YAML files declare, and the mistakes in the files.

    Args:
        specs: collections with different names, by the file that declares each.
        mistakes: of each file whose collection cannot be built, by file.
    """

    specs: Mapping[Path, CollectionSpec]
    mistakes: Mapping[Path, Sequence[Mistake]]


def read_specs(folder: str | Path) -> list[CollectionSpec]:
    """Return the collections declared in the YAML files of a folder, by file name.

    Raises:
        DeclarationError: naming file, line and field of every mistake in all of the files.
    """
    return read_files(declaration_files(folder))


def read_files(files: Sequence[Path]) -> list[CollectionSpec]:
    """Return the collections that some YAML files declare, in the order of the files.

    Raises:
        DeclarationError: naming file, line and field of every mistake in all of the files; two collections of one name
            are a mistake too.
    """
    found = read_declarations(files)
    if found.mistakes:
        raise DeclarationError([mistake for of_file in found.mistakes.values() for mistake in of_file])
    return list(found.specs.values())


def declaration_files(folder: str | Path) -> list[Path]:
    """Return the YAML files of a folder, by name."""
    return sorted(path for path in Path(folder).iterdir() if path.suffix in {".yaml", ".yml"})


def read_declarations(files: Sequence[Path], same: Callable[[str], str] = str) -> Declarations:
    """Read YAML files; mistakes in one file do not hide the collections of the others.

    Args:
        files: to read. If two files declare one name, the first counts.
        same: returns a key of a name; names with equal keys count as one name.
    """
    specs, mistakes = dict[Path, CollectionSpec](), dict[Path, Sequence[Mistake]]()
    file_of: dict[str, Path] = {}
    for file in files:
        try:
            spec = read_spec(file)
        except DeclarationError as error:
            mistakes[file] = error.mistakes
            continue
        if (first := file_of.setdefault(same(spec.name), file)) == file:
            specs[file] = spec
            continue
        name = specs[first].name
        alike = "" if name == spec.name else f" as {name!r}, which Dagster cannot tell apart from it"
        said = f"declares {spec.name!r}, and so does {first}{alike}: give one of them another name"
        line = _line(_document(file), ("name",), "")
        mistakes[file] = [Mistake(file=str(file), line=line, field="name", message=said)]
    return Declarations(specs=specs, mistakes=mistakes)


def read_spec(file: str | Path) -> CollectionSpec:
    """Return the collection a YAML file declares.

    Relative paths start at the file's folder, and the name of the collection is by default that of the file.

    Raises:
        DeclarationError: naming for every mistake the file, line, field and remedy.
    """
    file = Path(file)
    document = _document(file)
    values = _plain(document, file)
    values = with_absolute_paths(file.parent, values)
    try:
        return CollectionSpec(**{"name": file.stem, **values})
    except ValidationError as error:
        problems = explain(error, CollectionSpec)
    mistakes = [
        Mistake(file=str(file), line=_line(document, place, text), field=".".join(map(str, place)), message=text)
        for place, text in problems
    ]
    raise DeclarationError(sorted(mistakes, key=lambda mistake: mistake.line or 0))


def with_absolute_paths(folder: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a declaration with paths made absolute; relative paths start at ``folder``."""
    made = {**values}
    for field in ("path", "workspace_dir"):
        value = made.get(field)
        if isinstance(value, str):
            made[field] = from_folder(folder, value)
        elif isinstance(value, list):
            made[field] = [from_folder(folder, one) if isinstance(one, str) else one for one in value]
    harvest = made.get("harvest")
    if isinstance(harvest, dict) and isinstance(harvest.get("stac_catalog"), str):
        made["harvest"] = {**harvest, "stac_catalog": from_folder(folder, harvest["stac_catalog"])}
    return made


def from_folder(folder: Path, path: str) -> str:
    """Return a path made absolute, relative to ``folder``; a URI stays as it is."""
    if "://" in path or "\0" in path:  # unchanged with a NUL, because the spec refuses such a path by name
        return path
    return str((folder / Path(path).expanduser()).resolve())


def collections_folder(given: str | Path | None, project_dir: str | Path | None) -> Path | None:
    """Return the folder of declarations; None if no folder is named and no default folder exists.

    Args:
        given: folder that the caller names; otherwise the environment variable ``RASTERET_ASSETS_COLLECTIONS`` may
            name one. A named folder must exist.
        project_dir: whose folder ``collections`` is the first default; the second is the demo's folder of collections
            in the working directory.

    Raises:
        SpecError: if a named folder does not exist.
    """
    named = {"collections_dir": given, COLLECTIONS_VARIABLE: os.environ.get(COLLECTIONS_VARIABLE)}
    for name, value in named.items():
        if value:
            folder = Path(value).expanduser()
            if not folder.is_dir():
                raise SpecError(f"{name}={str(value)!r}: no such folder; name the folder that holds the YAML files")
            return folder
    beside = [Path(project_dir) / "collections"] if project_dir is not None else []
    return next((folder for folder in [*beside, DEMO_COLLECTIONS.absolute()] if folder.is_dir()), None)


def _document(file: Path) -> yaml.MappingNode:
    """Return the content of a file as a tree of nodes with line numbers."""
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        text = ", ".join(part for part in (error.context, error.problem) if part)
        raise _mistake(file, f"not valid YAML: {text}", mark.line + 1 if mark else 1) from None
    except yaml.YAMLError as error:
        raise _mistake(file, f"not valid YAML: {' '.join(str(error).split())}", 1) from None
    except (OSError, UnicodeDecodeError) as error:
        raise _mistake(file, f"cannot be read: {error}") from None
    except RecursionError:
        raise _mistake(file, "is nested too deeply") from None
    if not isinstance(node, yaml.MappingNode):
        raise _mistake(file, "declares no collection: write fields such as path: and name:, one per line", 1)
    if _entries(node, {}) > _MOST_ENTRIES:
        raise _mistake(file, f"stands for more than {_MOST_ENTRIES:,} entries, each use of an alias counted")
    if repeated := list(_repeated(node, set())):
        said = "is written twice, and YAML would take the last: leave one out"
        raise DeclarationError([
            Mistake(file=str(file), line=line, field=name, message=f"{name} {said}") for name, line in repeated
        ])  # fmt: skip
    return node


def _mistake(file: Path, message: str, line: int | None = None) -> DeclarationError:
    return DeclarationError([Mistake(file=str(file), line=line, message=message)])


def _plain(node: yaml.MappingNode, file: Path) -> dict[str, Any]:
    loader = yaml.SafeLoader("")
    try:
        return {str(key): value for key, value in loader.construct_mapping(node, deep=True).items()}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise _mistake(file, f"not valid YAML: {error.problem}", line) from None
    except (ValueError, OverflowError) as error:  # such as of 2024-13-45, which looks like a date
        raise _mistake(file, f"not valid YAML: {error}; put quotes around texts") from None
    except RecursionError:
        raise _mistake(file, "is nested too deeply") from None
    finally:
        loader.dispose()


def _entries(node: yaml.Node, counts: dict[int, int]) -> int:
    """Count the nodes of a tree, and those of an alias at each of its uses, because merging and messages copy them.

    Args:
        node: of a tree that stays in memory during the call, because nodes are known by ``id()``.
        counts: counts by ``id()`` of the node; 0 for a node that is being counted, because it may contain itself.
    """
    if id(node) in counts:
        return counts[id(node)]
    counts[id(node)] = 0
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    pairs = isinstance(node, yaml.MappingNode)
    count = 1 + sum(_entries(one, counts) for child in children for one in (child if pairs else (child,)))
    counts[id(node)] = count
    return count


def _repeated(node: yaml.Node, visited: set[int]) -> Iterator[tuple[str, int]]:
    """Yield each key that a mapping repeats, at any depth, with the line of the repetition.

    Args:
        node: of a tree that stays in memory during the call, because nodes are known by ``id()``.
        visited: ``id()`` of nodes that were visited, because aliases make millions of nodes of a few lines.
    """
    if id(node) in visited:
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key.value, key.start_mark.line + 1
                seen.add(key.value)
            yield from _repeated(value, visited)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated(item, visited)


def _line(node: yaml.Node, place: tuple[str | int, ...], text: str) -> int:
    """Return the line of a field; for a mistake of several fields, the line of the first field that its text names."""
    for part in place or _named(node, text):
        found = None
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        if found is None:
            break
        line, node = found[0].start_mark.line, found[1]
    else:
        return int(line) + 1
    return int(node.start_mark.line) + 1


def _named(node: yaml.Node, text: str) -> tuple[str, ...]:
    keys = [key.value for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    found = sorted((text.find(key), key) for key in keys if key in text)
    return (found[0][1],) if found else ("",)
