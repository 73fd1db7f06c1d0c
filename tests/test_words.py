"""Texts, comments and names use the words of CONTRIBUTING's glossary, and say "X is not a Y", never "X is no Y"."""

from __future__ import annotations

import ast
import io
import re
import tokenize
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
    "collection/formats/virtual_zarr/_icechunk_store.py": {"manifest": "a manifest of Icechunk"},
    "source/open.py": {"fingerprint: ": "a field, which source.json stores under this name"},
    "source/profile.py": {"fingerprint: ": "a field, which source.json stores under this name"},
}


#: Metaphors that names of the package do not use, because they do not say what a thing holds or does.
METAPHORS = {
    "known",
    "told",
    "light",
    "borrow",
    "lend",
    "lender",
    "donor",
    "garbage",
    "lacked",
    "standing",
    "look",
    "ahead",
}

#: Names with such a word that have another meaning, and why.
OTHER_NAMES = {"_look_up": "of a name by DNS", "read_ahead": "more bytes than were asked for", "READ_AHEAD": "the same"}


def sentences(source: str) -> Iterator[str]:
    """Every text of a module that people read: docstrings, strings with a space such as messages, and comments.

    The lines of a comment are one text, because sentences go on from line to line.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield " ".join(node.value.split())
    lines: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if lines and token.start[0] > last + 1:
                yield " ".join(lines)
                lines = []
            lines.append(token.string.lstrip("#: "))
            last = token.start[0]
    yield " ".join(lines)


def names(tree: ast.Module) -> Iterator[str]:
    """Every name that a module gives: of functions, classes, arguments, variables and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


# Parsed while the suite is collected, for the reason that test_layers gives.
SOURCES = {
    path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))
}
TEXTS = {module: list(sentences(source)) for module, source in SOURCES.items()}
NAMES = {module: set(names(ast.parse(source))) for module, source in SOURCES.items()}


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


def test_metaphors_stay_out_of_names() -> None:
    found = {
        f"{module}: {name}"
        for module, given in NAMES.items()
        for name in given - OTHER_NAMES.keys()
        if METAPHORS & set(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower().split("_"))
    }
    assert not found, "a name says what the thing holds or does: rename " + ", ".join(sorted(found))


def test_other_names_are_needed() -> None:
    assert OTHER_NAMES.keys() <= set().union(*NAMES.values())
