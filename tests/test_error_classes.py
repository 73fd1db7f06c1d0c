"""Classes of failures: every exception has one, and the documentation lists them all with what helps."""

from __future__ import annotations

import importlib
import pickle
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import rasteret_assets
from rasteret_assets.error_classes import ErrorClass, RejectClass
from rasteret_assets.errors import RangeReadError, RasteretAssetsError, TiffError

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"


def subclasses(kind: type[RasteretAssetsError]) -> Iterator[type[RasteretAssetsError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


def table_below(heading: str) -> list[tuple[str, ...]]:
    """The rows of the table in a section of the page, without the backticks of names."""
    section = PAGE.read_text().split(f"\n### {heading}\n")[1].split("\n#")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in lines]


def test_the_page_lists_every_class_of_headers_in_its_order() -> None:
    filed = [kind for kind in ErrorClass if kind.retry is not None]
    assert table_below("Headers") == [(kind.value, kind.retry.value, kind.remedy) for kind in filed]


@pytest.mark.parametrize(
    ("heading", "kinds"),
    [("Records", list(RejectClass)), ("Exceptions", [kind for kind in ErrorClass if kind.retry is None])],
)
def test_the_page_lists_every_other_class(heading: str, kinds: list[ErrorClass | RejectClass]) -> None:
    assert table_below(heading) == [(kind.value, kind.remedy) for kind in kinds]


def test_only_failures_of_a_single_file_are_written_to_a_ledger() -> None:
    # A module that defines an exception of its own has to be imported to be counted.
    for module in pkgutil.walk_packages(rasteret_assets.__path__, "rasteret_assets."):
        if module.name.endswith("errors"):
            importlib.import_module(module.name)
    for kind in subclasses(RasteretAssetsError):
        of_a_file = issubclass(kind, RangeReadError | TiffError)
        assert (kind.error_class.retry is not None) == of_a_file, kind


def test_a_class_is_the_text_that_is_stored_and_survives_a_pickle() -> None:
    assert (ErrorClass.NOT_FOUND, f"{ErrorClass.NOT_FOUND}") == ("not_found", "not_found")
    assert pickle.loads(pickle.dumps(ErrorClass.NOT_FOUND)) is ErrorClass.NOT_FOUND
    assert pickle.loads(pickle.dumps(RejectClass.MISSING_ID)) is RejectClass.MISSING_ID
