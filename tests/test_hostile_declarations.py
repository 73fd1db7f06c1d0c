"""YAML files of strangers: whatever is written in them, the command line answers soon and in a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rasteret_assets.cli import main

#: What does not end fails.
LIMIT_S = 300


def doubled(first: str, line: str, levels: int = 9) -> str:
    """A declaration in which each level names the one before nine times."""
    lines = ["name: x", "path: t.parquet", f"l0: &l0 {first}"]
    lines += [f"l{at}: &l{at} {line.format(', '.join([f'*l{at - 1}'] * 9))}" for at in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        doubled("[x, x]", "[{}]"),
        doubled("{x: y}", "{{<<: [{}]}}"),
        doubled("[x, x]", "[{}]") + "filter_expr: [[*l8]]\n",
    ],
    ids=["lists", "merged", "filter"],
)
def test_aliases_that_multiply_are_counted_and_not_followed(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "rasteret_assets", "build", "--dry-run", str(tmp_path / "x.yaml")],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "x.yaml: stands for more than 100,000 entries" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("path: " + "{a: " * 3000 + "}" * 3000, "nested too deeply"),
        ("path: &a [*a]", "recursive"),
        ("path: t\nmax_concurrent: " + "9" * 5000, "put quotes around texts"),
        ("path: t\ndescription: 2024-13-45", "put quotes around texts"),
        ("path: t\ndescription: 2024-01-01 00:00:00 +99:99", "put quotes around texts"),
        ('path: "a\\0b"', "holds a NUL"),
        ("path: !!python/object:os.system x", "could not determine a constructor"),
    ],
)
def test_yaml_that_cannot_be_a_declaration_is_reported_in_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    result = CliRunner().invoke(main, ["build", "--dry-run", str(tmp_path / "x.yaml")])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), result.exception
    assert message in " ".join(result.output.split())


def test_aliases_that_people_write_are_fine(tmp_path: Path) -> None:
    text = "path: none.parquet\nband_codes: &bands [B, C]\ncolumns: *bands\n"
    (tmp_path / "x.yaml").write_text(text)
    result = CliRunner().invoke(main, ["build", "--dry-run", str(tmp_path / "x.yaml")])
    assert "no such file" in result.output
