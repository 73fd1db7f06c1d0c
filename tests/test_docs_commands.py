"""Commands and declarations on the pages: a command has the options that it is given, a declaration is valid."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from rasteret_assets import CollectionSpec
from rasteret_assets.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

#: YAML that is not a declaration: settings of a run in Dagster's launchpad; a component, which other tests load.
OTHER_YAML = ("resources", "type")


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every ``rasteret-assets ...`` in blocks and in running text, without comments."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words and words[0].endswith("rasteret-assets"):
                    yield words[1:]
    running = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`rasteret-assets ([^`]+)`", " ".join(running.split())):
        yield shlex.split(span)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist_with_their_options(page: Path) -> None:
    group = click.Context(main)
    for words in commands(page):
        name, *rest = words
        if name.startswith("-") or name == "COMMAND":
            continue
        command = main.get_command(group, name)
        assert command is not None, f"rasteret-assets {name}"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.strip("[]").partition("=")[0] for word in rest if re.match(r"\[?--?[a-z]", word)}
        assert given <= known | {"--help"}, f"rasteret-assets {' '.join(words)}"


def declarations() -> list[Any]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for number, block in enumerate(re.findall(r"^```yaml\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)):
            values = yaml.safe_load(block)
            if not any(key in values for key in OTHER_YAML):
                found.append(pytest.param(values, id=f"{page.name}-{number}"))
    return found


@pytest.mark.parametrize("values", declarations())
def test_declarations_are_valid(values: dict[str, Any]) -> None:
    # A page may show some fields only, and the file gives the name.
    given = values if {"path", "harvest"} & set(values) else {"path": "scenes.parquet", **values}
    CollectionSpec.of(**{"name": "scenes", "workspace_dir": "index", **given})
