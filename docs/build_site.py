"""Build the documentation as a site.

``python docs/build_site.py`` writes the site to ``build/site``; with ``--serve`` it serves the site and keeps running.

The pages are the Markdown files of the repository. They have the same paths on the site, so that a relative link leads
to the same page in both. They are copied to ``build/pages`` first, because MkDocs takes no pages from the folder of
its own settings, and because some lists in them are made from the code. A line such as

    <!-- from the code: errors -->

becomes the Markdown that the function of this name in :data:`LISTS` returns.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rasteret_assets import errors
from rasteret_assets.checks import checks_of
from rasteret_assets.cli import main as program
from rasteret_assets.declare.editor_schema import json_schema
from rasteret_assets.declare.recipes import recipes

ROOT: Final = Path(__file__).resolve().parent.parent
#: Files and folders of the repository that are copied to the site.
COPIED: Final = (
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs", "examples", "benchmarks",
)  # fmt: skip
_LIST: Final = re.compile(r"^<!-- from the code: (\w+) -->$", re.MULTILINE)


def main(*arguments: str) -> None:
    """Write the pages, then build the site (or serve it, with ``--serve``); every warning of MkDocs is an error."""
    command = "serve" if "--serve" in arguments else "build"
    sys.exit(run_mkdocs(ROOT / "build", command).returncode)


def run_mkdocs(folder: Path, command: str = "build", **options: Any) -> subprocess.CompletedProcess[str]:
    """Write the pages to ``folder/pages`` and run a command of MkDocs, which writes the site to ``folder/site``.

    Args:
        folder: where to.
        command: ``build`` or ``serve``.
        options: of ``subprocess.run``.
    """
    write_pages(folder / "pages")
    # The notice says that Material for MkDocs ends in May 2027; CONTRIBUTING says what follows it.
    environment = os.environ | {
        "NO_MKDOCS_2_WARNING": "1",
        "DOCS_PAGES": str(folder / "pages"),
        "DOCS_SITE": str(folder / "site"),
    }
    words = [sys.executable, "-m", "mkdocs", command, "--strict"]
    return subprocess.run(words, cwd=ROOT, env=environment, check=False, text=True, **options)


def write_pages(folder: Path) -> None:
    """Write all pages of the site, with the lists that are made from the code.

    Args:
        folder: where to; what it held before is deleted.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            # The scripts of docs/ make pages and pictures; those of other folders are linked.
            left_out = ("__pycache__", "*.py") if name == "docs" else ("__pycache__",)
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*left_out))
        else:
            shutil.copyfile(source, target)
    for page in folder.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        if _LIST.search(text):
            page.write_text(_LIST.sub(lambda found: LISTS[found[1]](), text), encoding="utf-8")


def list_errors() -> str:
    """Return a table of the exceptions, in the order in which the module defines them."""
    classes = [
        found
        for found in vars(errors).values()
        if isinstance(found, type) and issubclass(found, errors.RasteretAssetsError)
    ]
    return _table(
        ("class, and what it inherits from", "`error_class`", "raised for"),
        (
            (
                f"`{found.__name__}`<br>({', '.join(base.__name__ for base in found.__bases__)})",
                f"`{found.error_class}`",
                _first_sentence(found.__doc__),
            )
            for found in classes
        ),
    )


def list_checks() -> str:
    """Return a section for each table that has checks, in the order in which data flows."""
    sections = []
    for stage in ("normalized_records", "rejected_records", "band_metadata", "collection"):
        rows = (
            (f"`{check.name}`{'<br>blocks' if check.blocking else ''}", check.description) for check in checks_of(stage)
        )
        sections.append(f"## {stage}\n\n{_table(('check', 'what must be true'), rows)}")
    return "\n\n".join(sections)


def list_recipes() -> str:
    """Return a table of the recipes."""
    return _table(
        ("recipe", "dataset", "needs"), ((f"`{recipe.id}`", recipe.title, recipe.needs) for recipe in recipes())
    )


def list_commands() -> str:
    """Return what every command prints for ``--help``, in the order in which ``rasteret-assets --help`` lists them."""
    group = program.make_context("rasteret-assets", [], resilient_parsing=True)
    commands = (program.get_command(group, name) for name in program.list_commands(group))
    contexts = [
        command.make_context(command.name, [], parent=group, resilient_parsing=True) for command in commands if command
    ]
    return "\n\n".join(f"## {each.command_path}\n\n```text\n{each.get_help()}\n```" for each in (group, *contexts))


def list_fields() -> str:
    """Return the fields of a declaration and of the groups of fields in it, as its JSON schema has them."""
    schema = json_schema()
    groups = {"Fields of a declaration": schema} | dict(sorted(schema["$defs"].items()))
    return "\n\n".join(
        f"## {name}\n\n{group['description']}\n\n{_fields(group)}"
        for name, group in groups.items()
        if "properties" in group
    )


def _fields(group: Mapping[str, Any]) -> str:
    """Return a table of the properties of an object in a JSON schema."""
    required = group.get("required", ())

    def describe(name: str, field: Mapping[str, Any]) -> str:
        if name in required:
            return f"{_type(field)}, required"
        plain = field.get("default") in (None, "", [], {})
        return _type(field) if plain else f"{_type(field)}, by default `{_yaml(field['default'])}`"

    return _table(
        ("field", "means"),
        (
            (f"`{name}`<br>{describe(name, field)}", field.get("description", ""))
            for name, field in group["properties"].items()
        ),
    )


def _type(field: Mapping[str, Any]) -> str:
    """Return the type of a property in words; a group of fields is a link to its section."""
    match field:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            words = f"[{name}](#{name.lower()})"
        case {"enum": values}:
            words = " or ".join(f"`{_yaml(value)}`" for value in values)
        case {"const": value}:
            words = f"`{_yaml(value)}`"
        case {"anyOf": choices}:
            words = " or ".join(dict.fromkeys(_type(choice) for choice in choices if choice.get("type") != "null"))
        case {"type": "array", **rest}:
            words = f"list of {_type(rest.get('items', {}))}"
        case {"type": "object", "additionalProperties": {**inner}}:
            words = f"mapping to {_type(inner)}"
        case {"type": "object"}:
            words = "mapping"
        case _:
            words = field.get("type", "any value")
    return words


def _yaml(value: Any) -> str:
    """Return a plain value as YAML spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _first_sentence(docstring: str | None) -> str:
    return re.split(r"(?<=[.])\s", " ".join((docstring or "").partition("\n\n")[0].split()), maxsplit=1)[0]


LISTS: Final[Mapping[str, Callable[[], str]]] = {
    "checks": list_checks,
    "commands": list_commands,
    "errors": list_errors,
    "fields": list_fields,
    "recipes": list_recipes,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
