"""Messages and docstrings use the words of CONTRIBUTING's glossary, and say "X is not a Y", never "X is no Y"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rasteret_assets

PACKAGE = Path(rasteret_assets.__file__).parent

#: Retired words and forms, and what to write instead.
RETIRED = {
    # "There is no recipe x" says that something does not exist, and reads well. "Is no longer" is about time.
    r"(?<!there )\b(is|are|was|were) no\b(?! longer| more\b| later| other| less\b| coarser| worse)": "X is not a Y",
    # "Is none of these" lists what something is not.
    r"(?<!there )\b(is|are|was|were) none\b(?! of)": "X is not a Y, X does not exist",
    r"\b(is|are|was|were) without\b": "X has no Y",
    r"(?i)\bsource tables?\b": "record table",
    r"(?i)\bAOIs?\b": "area",
    r"(?i)\bfingerprints?\b": "version",
    r"(?i)\bmanifests?\b": "state",
    r"(?i)\bknown headers?\b": "stored headers, or ledger",
    r"(?i)\brecipes? (of (the|a|its) (rows|stage)|under which)": "version",
}

#: Where a retired word has another meaning: the module, a part of the text around it, and what the word means there.
OTHER_MEANINGS = {
    "collection/formats/_icechunk_store.py": {"share a manifest": "a manifest of Icechunk"},
    "source/open.py": {"fingerprint: ": "a field, which source.json stores under this name"},
    "source/profile.py": {"fingerprint: ": "a field, which source.json stores under this name"},
}


def sentences(tree: ast.Module) -> Iterator[str]:
    """Every text of a module that people read: docstrings, and strings with a space in them, such as messages."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield " ".join(node.value.split())


# Parsed while the suite is collected, for the reason that test_layers gives.
TEXTS = {
    str(path.relative_to(PACKAGE)): list(sentences(ast.parse(path.read_text(encoding="utf-8"))))
    for path in sorted(PACKAGE.rglob("*.py"))
}


@pytest.mark.parametrize(("pattern", "instead"), RETIRED.items())
def test_retired_words_stay_out(pattern: str, instead: str) -> None:
    found = [
        f"{module}: ...{text[max(0, match.start() - 40) : match.end() + 40]}..."
        for module, texts in TEXTS.items()
        for text in texts
        for match in re.finditer(pattern, text)
        if not any(part in text for part in OTHER_MEANINGS.get(module, ()))
    ]
    assert not found, f"write {instead!r} in " + "\n".join(found)


def test_exceptions_are_needed() -> None:
    for module, parts in OTHER_MEANINGS.items():
        for part in parts:
            assert any(part in text for text in TEXTS[module]), f"{module} does not say {part!r} any more"
