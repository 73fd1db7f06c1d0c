"""Find the names of query parameters that published addresses kept, and that were taken out as secrets."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.schema import ASSETS, HREF
from rasteret_assets.secrets import shown_names

_log = logging.getLogger(__name__)

#: Counts of the collection stage that hold names of query parameters, one a line.
KEPT: Final = "query_kept"
TAKEN: Final = "query_taken_out"


def changed_parameters(given: pa.Table, published: pa.Table) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of query parameters that addresses of assets kept, and of those that were taken out.

    Args:
        given: normalized records.
        published: the same records, with secrets taken out of their addresses.
    """
    kept, taken = set[str](), set[str]()
    if ASSETS in given.schema.names and pa.types.is_struct(given.schema.field(ASSETS).type):
        before, after = (_hrefs(table[ASSETS].combine_chunks()) for table in (given, published))
        for one, other in zip(before, after, strict=True):
            for pattern_before, pattern_after in _patterns(one, other):
                left = shown_names(pattern_after)
                kept |= left
                taken |= shown_names(pattern_before) - left
    return frozenset(kept), frozenset(taken)


def tell_parameters(kept: Iterable[str], taken: Iterable[str]) -> None:
    """Log once for a build which query parameters of addresses were kept and which were taken out."""
    names = {"kept": ", ".join(sorted(kept)), "taken out as secrets": ", ".join(sorted(taken))}
    text = "; ".join(f"{what}: {which}" for what, which in names.items() if which)
    if text:
        _log.info("query parameters of addresses: %s (secret_query and keep_query decide otherwise)", text)


def _hrefs(assets: pa.Array) -> list[pa.Array]:
    fields = [pc.struct_field(assets, [position]) for position in range(assets.type.num_fields)]
    return [
        pc.struct_field(field, [field.type.get_field_index(HREF)])
        for field in fields
        if pa.types.is_struct(field.type) and field.type.get_field_index(HREF) >= 0
    ]


def _patterns(given: pa.Array, published: pa.Array) -> list[tuple[str, str]]:
    """Return pairs of queries, given and published, with their values removed; each pair once, as a table has few."""
    chosen = pc.fill_null(pc.match_substring(given, "?"), fill_value=False)
    if not pc.any(chosen).as_py():
        return []
    texts = []
    for hrefs in (given, published):
        query = pc.replace_substring_regex(hrefs.filter(chosen), r"(?s)^[^?]*\??", "")
        texts.append(pc.replace_substring_regex(query, r"(?s)=[^&;]*|#.*$", "="))
    both = pc.binary_join_element_wise(*texts, pa.scalar("\n", texts[0].type))
    return [(before, after) for before, _, after in (text.partition("\n") for text in pc.unique(both).to_pylist())]
