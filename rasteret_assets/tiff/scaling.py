"""Read scale and offset of bands from GDAL's metadata, because TIFF has no tags for them.

A physical value is ``pixel * scale + offset``. The ``GDAL_METADATA`` tag (42112) states both per band::

    <GDALMetadata>
      <Item name="OFFSET" sample="0" role="offset">-0.1</Item>
      <Item name="SCALE" sample="0" role="scale">0.0001</Item>
    </GDALMetadata>

The rules are those of GDAL's GTiff driver (``GTiffDataset::OpenOffset``). An Item belongs to the band ``sample``,
counted from 0; without ``sample`` it belongs to the whole file and is not a scale. Of several Items the last counts. A
document that is cut off has no scale. Names are in the case in which GDAL writes them. Entities that a document defines
are not expanded, and no expression takes a time that grows faster than the length of the text.
"""

from __future__ import annotations

import html
import re
from functools import lru_cache
from typing import Final, NamedTuple

from rasteret_assets.tiff.ifd import MAX_REMEMBERED
from rasteret_assets.tiff.nodata import parse_real

#: Most bytes of metadata that are read; statistics and descriptions of hundreds of bands take less.
MAX_METADATA_BYTES: Final = 64 * 1024

# Comments and CDATA sections, which may look like markup; an unclosed one goes to the end.
_HIDDEN: Final = re.compile(r"<!--(?:.*?-->|.*)|<!\[CDATA\[(?:(.*?)\]\]>|.*)", re.DOTALL)
# No part goes beyond the next "<", because neither attribute nor text may hold one (XML 1.0, 2.4 and 3.1).
_ITEM: Final = re.compile(r"""<Item\s((?:[^<>"']|"[^<"]*"|'[^<']*')*)>([^<]*)</Item\s*>""")
_ATTRIBUTE: Final = re.compile(r"""(?<!\S)([^\s=<>"'/]+)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_SAMPLE: Final = re.compile(r"\s*([+-]?\d{1,9})", re.ASCII)

_ROLE: Final = b"role"
#: Most characters of a number or name.
_MAX_TEXT: Final = 400


class Scaling(NamedTuple):
    """Scale and offset of each band of a file; None for a band without one, empty if no band has one."""

    scales: tuple[float | None, ...]
    offsets: tuple[float | None, ...]


UNSCALED: Final = Scaling((), ())


def read_scaling(xml: bytes, samples: int) -> Scaling:
    """Return scale and offset of each band; none for a document that cannot be read.

    Args:
        xml: content of the ``GDAL_METADATA`` tag.
        samples: number of bands of the file.
    """
    # Only documents with a role are cached, because most documents have neither scale nor offset.
    return _remembered(xml, samples) if _ROLE in xml else UNSCALED


@lru_cache(maxsize=MAX_REMEMBERED)
def _remembered(xml: bytes, samples: int) -> Scaling:
    # Without statistics and notes, which differ from file to file, so that the cache of _read() serves many files.
    parts = [part for part in xml.split(b"<") if not part.startswith(b"Item") or _ROLE in part]
    return _read(b"<".join(parts), samples)


@lru_cache(maxsize=MAX_REMEMBERED)
def _read(xml: bytes, samples: int) -> Scaling:
    text = _HIDDEN.sub(lambda match: html.escape(match[1] or ""), xml.split(b"\0", 1)[0].decode("latin-1"))
    start, end = text.find("<GDALMetadata"), text.rfind("</GDALMetadata")
    scales: dict[int, float] = {}
    offsets: dict[int, float] = {}
    for stated, content in _ITEM.findall(text, start, end) if 0 <= start < end else ():
        # Reversed, because of a repeated attribute the first counts.
        attributes = {name: _plain(double or single) for name, double, single in reversed(_ATTRIBUTE.findall(stated))}
        values = {"scale": scales, "offset": offsets}.get(attributes.get("role", "").lower())
        is_structure = attributes.get("domain", "").upper() == "IMAGE_STRUCTURE"
        if values is None or "name" not in attributes or "sample" not in attributes or is_structure:
            continue
        number = _SAMPLE.match(attributes["sample"])
        sample = 0 if number is None else int(number[1])
        value = parse_real(_plain(content))
        # Unlike GDAL, which takes text that is not a number for 0, so that all pixels have one value.
        if value is not None and 0 <= sample < samples:
            values[sample] = value
    return Scaling(_per_band(scales, samples), _per_band(offsets, samples))


def _plain(text: str) -> str:
    """Return the start of a text, with entities replaced by their characters."""
    return html.unescape(text[:_MAX_TEXT])


def _per_band(values: dict[int, float], samples: int) -> tuple[float | None, ...]:
    return tuple(map(values.get, range(samples))) if values else ()
