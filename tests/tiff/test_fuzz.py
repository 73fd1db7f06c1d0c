"""A few seconds of the fuzzer; ``python -m tests.tiff.fuzz`` runs it for hours."""

from __future__ import annotations

import pytest

from tests.tiff.fuzz import fuzz


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_files_give_a_header_or_an_error_within_their_means(seed: int) -> None:
    found = fuzz(seed, iter(range(1500)))
    assert found.failures == []
    # Damage that ends every parse at its first check would test nothing behind it.
    assert found.outcomes["header"] > 100
    assert len(found.outcomes) >= 5
