"""The command line: usage, exit codes, and what it does not import."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rasteret_assets import __version__
from rasteret_assets.cli import main


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert __version__ in result.output


@pytest.mark.parametrize("arguments", [["--nonsense"], ["demo", "--port", "0"], ["demo", "--port", "many"], ["bake"]])
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_no_help_imports_what_takes_long() -> None:
    code = """
import sys
from click.testing import CliRunner
from rasteret_assets.cli import main
for arguments in ([], *([name] for name in main.commands)):
    result = CliRunner().invoke(main, [*arguments, "--help"])
    assert result.exit_code == 0 and result.output.startswith("Usage: "), result.output
slow = {"aiohttp", "dagster", "matplotlib", "numpy", "obstore", "pandas", "pyarrow", "pydantic", "rich", "shapely"}
print(*sorted(slow & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""


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
