"""What the command line tells before a command runs: commands, completions, wrong usage."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from rasteret_assets import __version__, cli
from rasteret_assets.cli import COMMANDS, library, main

PRINT_MODULES = "import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); "


def modules_imported_by(code: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", PRINT_MODULES + code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_help_of_a_command_begins_with(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    assert command.name == name
    assert (command.help or "").partition("\n")[0] == COMMANDS[name][1]
    assert f"{name:10}  {COMMANDS[name][1]}" in CliRunner().invoke(main, ["--help"]).stdout


def test_every_command_has_a_module_of_its_name() -> None:
    modules = {path.stem for path in Path(str(cli.__file__)).parent.glob("cmd_*.py")}
    assert modules == {f"cmd_{name.replace('-', '_')}" for name in COMMANDS}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_command(option: str) -> None:
    imported = modules_imported_by(f"from rasteret_assets.cli import main; main([{option!r}])")
    assert {name for name in imported if name.startswith("rasteret_assets")} == {
        "rasteret_assets",
        "rasteret_assets.cli",
    }
    assert not imported & {"pyarrow", "dagster", "numpy", "rich"}


def test_help_of_commands_imports_little() -> None:
    imported = modules_imported_by(f"import {', '.join(path.partition(':')[0] for path, _ in COMMANDS.values())}")
    assert not imported & {"aiohttp", "dagster", "obstore", "pydantic", "pyproj", "pystac", "shapely"}
    assert not [name for name in imported if name.startswith(("rasteret_assets.storage", "rasteret_assets.pipeline"))]


def test_commands_import_what_type_checkers_see() -> None:
    statements = ast.parse(Path(library.__file__).read_text()).body
    seen = next(node for node in statements if isinstance(node, ast.If))
    imports = [node for node in seen.body if isinstance(node, ast.ImportFrom)]
    assert {alias.name: node.module for node in imports for alias in node.names} == library.MODULES
    for name in library.MODULES:
        assert getattr(library, name) is not None


@pytest.mark.parametrize(
    ("words", "completed"), [("rasteret-assets ex", "export-gti"), ("rasteret-assets --ver", "--version")]
)
def test_a_shell_completes_commands_and_options(words: str, completed: str) -> None:
    asked = {"_RASTERET_ASSETS_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "1"}
    code = "import sys; from rasteret_assets.cli import main; main(prog_name='rasteret-assets')"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"plain,{completed}\n"


def test_the_error_of_a_mistyped_command_proposes_another() -> None:
    result = CliRunner().invoke(main, ["bulid"])
    assert result.exit_code == 2
    assert "No such command 'bulid'" in result.stderr


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert __version__ in result.output


@pytest.mark.parametrize("arguments", [["--nonsense"], ["demo", "--port", "0"], ["demo", "--port", "many"], ["bake"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_discover_wants_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    result = CliRunner().invoke(main, ["discover", "--collections", str(tmp_path)])
    assert result.exit_code == 2
    assert "DAGSTER_HOME is not set" in result.output


def test_discover_wants_declarations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.delenv("RASTERET_ASSETS_COLLECTIONS", raising=False)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["discover"])
    assert result.exit_code == 2
    assert "--collections" in result.output
