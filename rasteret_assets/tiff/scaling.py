"""Scale and offset of bands, from the XML in which GDAL keeps what TIFF has no tag for.

A physical value is ``pixel * scale + offset``. The ``GDAL_METADATA`` tag (42112) states both per band::

    <GDALMetadata>
      <Item name="OFFSET" sample="0" role="offset">-0.1</Item>
      <Item name="SCALE" sample="0" role="scale">0.0001</Item>
    </GDALMetadata>

The rules are those by which GDAL's GTiff driver reads it (``GTiffDataset::OpenOffset``): an Item is of the band that
``sample`` counts from 0, and without one of the whole file, where a scale is a note like any other; the last of several
Items counts; a document that is cut off says nothing. Names are in the case in which GDAL writes them. Entities of the
document's own are not expanded, and no expression takes a time that grows faster than the length of the text.
"""

from __future__ import annotations

import html
import re
from functools import lru_cache
from typing import Final, NamedTuple

from rasteret_assets.tiff.ifd import MAX_REMEMBERED
from rasteret_assets.tiff.nodata import parse_real

#: A longer value is not read: statistics and descriptions of hundreds of bands take less.
MAX_METADATA_BYTES: Final = 64 * 1024

# What is no markup although it may look so: comments, and text between other brackets. Unclosed, it goes to the end.
_HIDDEN: Final = re.compile(r"<!--(?:.*?-->|.*)|<!\[CDATA\[(?:(.*?)\]\]>|.*)", re.DOTALL)
# No part runs across the next "<", which no attribute or text may hold (XML 1.0, 2.4 and 3.1).
_ITEM: Final = re.compile(r"""<Item\s((?:[^<>"']|"[^<"]*"|'[^<']*')*)>([^<]*)</Item\s*>""")
_ATTRIBUTE: Final = re.compile(r"""(?<!\S)([^\s=<>"'/]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_SAMPLE: Final = re.compile(r"\s*([+-]?\d{1,9})", re.ASCII)

_ROLE: Final = b"role"
#: No number or name needs more.
_MAX_TEXT: Final = 400


class Scaling(NamedTuple):
    """Scale and offset of each band of a file, None for bands that state none; empty where no band does."""

    scales: tuple[float | None, ...]
    offsets: tuple[float | None, ...]


UNSCALED: Final = Scaling((), ())


def read_scaling(xml: bytes, samples: int) -> Scaling:
    """Scale and offset of each band; a document that cannot be read states none.

    Args:
        xml: content of the ``GDAL_METADATA`` tag.
        samples: number of bands of the file.
    """
    # Most documents state none: those are not worth remembering.
    return _remembered(xml, samples) if _ROLE in xml else UNSCALED


@lru_cache(maxsize=MAX_REMEMBERED)
def _remembered(xml: bytes, samples: int) -> Scaling:
    # Statistics and notes differ from file to file. What is left is the same for many, and remembered too.
    parts = [part for part in xml.split(b"<") if not part.startswith(b"Item") or _ROLE in part]
    return _read(b"<".join(parts), samples)


@lru_cache(maxsize=MAX_REMEMBERED)
def _read(xml: bytes, samples: int) -> Scaling:
    text = _HIDDEN.sub(lambda match: html.escape(match[1] or ""), xml.split(b"\0", 1)[0].decode("latin-1"))
    start, end = text.find("<GDALMetadata"), text.rfind("</GDALMetadata")
    scales: dict[int, float] = {}
    offsets: dict[int, float] = {}
    for stated, content in _ITEM.findall(text, start, end) if 0 <= start < end else ():
        # Of a repeated attribute the first counts.
        attributes = {name: _plain(double or single) for name, double, single in reversed(_ATTRIBUTE.findall(stated))}
        values = {"scale": scales, "offset": offsets}.get(attributes.get("role", "").lower())
        is_structure = attributes.get("domain", "").upper() == "IMAGE_STRUCTURE"
        if values is None or "name" not in attributes or "sample" not in attributes or is_structure:
            continue
        number = _SAMPLE.match(attributes["sample"])
        sample = 0 if number is None else int(number[1])
        value = parse_real(_plain(content))
        # GDAL takes text that is no number for 0, which would make all pixels one: here it states nothing.
        if value is not None and 0 <= sample < samples:
            values[sample] = value
    return Scaling(_per_band(scales, samples), _per_band(offsets, samples))


def _plain(text: str) -> str:
    """The start of a text, with the characters that entities stand for."""
    return html.unescape(text[:_MAX_TEXT])


def _per_band(values: dict[int, float], samples: int) -> tuple[float | None, ...]:
    return tuple(map(values.get, range(samples))) if values else ()
