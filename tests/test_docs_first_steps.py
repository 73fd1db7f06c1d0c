"""``docs/first-steps.md`` from top to bottom: every command runs, and what the page shows is what is seen.

The declarations that ``docs/getting-started.md`` shows are those that ``init`` writes.
"""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from rasteret_assets.cli import main
from rasteret_assets.demo.folder import DemoFolder
from rasteret_assets.demo.scenes import write_records, write_scenes
from rasteret_assets.demo.server import HOST, serving

PAGE = Path(__file__).parent.parent / "docs" / "first-steps.md"
DAGSTER = PAGE.with_name("getting-started.md")
BLOCK = re.compile(r"^```(bash|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port at which ``rasteret_demo/files`` are served, as ``rasteret-assets demo --serve`` serves them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    folder = DemoFolder(Path("rasteret_demo"))
    folder.prepare(force=False)
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        free = probe.getsockname()[1]
    with serving(folder.files, free) as server:
        write_records(folder.records, write_scenes(folder.files, lambda *_: None), server.url)
        folder.complete(server.port)
        yield server.port


def run(command: str) -> str:
    """Run a line of the page, and return what it prints."""
    words = shlex.split(command)
    if words[0] == "cp":
        shutil.copyfile(*words[1:])
        return ""
    assert words[0] == "rasteret-assets"
    result = CliRunner().invoke(main, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]


def test_the_output_on_the_page_is_what_is_printed(tmp_path: Path, port: int) -> None:
    def here(text: str) -> str:
        return text.replace("/home/me", str(tmp_path)).replace(f"{HOST}:8745", f"{HOST}:{port}")

    seen, compared = "", 0
    python = doctest.DocTestRunner()
    names: dict[str, object] = {}
    for kind, block in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "python":
            session = doctest.DocTestParser().get_doctest(block, {}, PAGE.name, PAGE.name, 0)
            session.globs = names  # of the blocks before, of which get_doctest would take a copy
            python.run(session, clear_globs=False)
            continue
        if kind == "text":
            # The width of a column follows the length of the host's port.
            shown, printed = lines(here(block)), lines(seen)
            assert [re.sub(r"[ ─]+", " ", line) for line in printed] == [re.sub(r"[ ─]+", " ", line) for line in shown]
            compared += 1
            continue
        seen = "".join(
            run(line)
            for line in block.strip().splitlines()
            if not line.startswith((". ", "rasteret-assets demo"))  # the test's environment, and the fixture
        )
    assert python.summarize(verbose=False).failed == 0
    assert (compared, python.tries > 8) == (6, True)
    table, _ = re.findall(r"^```yaml\n(.*?)^```$", DAGSTER.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)[:2]
    assert (tmp_path / "collections" / "scenes.yaml").read_text(encoding="utf-8") == here(table)


def test_a_dataset_that_people_know_is_declared_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = DAGSTER.read_text(encoding="utf-8")
    (command,) = re.findall(r"^rasteret-assets init earth-search/.*$", text, re.MULTILINE)
    _, shown = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[:2]
    run(command)
    (written,) = Path("collections").glob("*.yaml")
    begin, _, end = shown.partition("...")  # of the names of the bands
    declared = written.read_text(encoding="utf-8").partition("\n# Made of")
    assert f"# Made of{declared[2]}".startswith(begin)
    assert declared[2].endswith(end.removeprefix("]"))


def test_the_mistake_that_the_page_shows_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = DAGSTER.read_text(encoding="utf-8")
    (table, *_) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    Path("collections").mkdir()
    Path("collections/scenes.yaml").write_text(table.replace("enrich_cog", "enrich"), encoding="utf-8")
    told = CliRunner().invoke(main, ["validate"]).stdout.splitlines()[0]
    assert f"`{told}`" in text
