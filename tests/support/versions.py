"""The version of the parser, as tests of upgrades set it."""

from __future__ import annotations

from typing import Final

import pytest

#: Of the headers in ``tests/fixtures/workspace-0.1.0``.
EARLIER_PARSER: Final = 4


def set_parser_version(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    """Let headers be kept, and held for known, as a parser of ``version`` would have read them."""
    for module in ("headers.index", "headers.rows", "source.profile", "pipeline._publish_stage"):
        monkeypatch.setattr(f"rasteret_assets.{module}.PARSER_VERSION", version)
