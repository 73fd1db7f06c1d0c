"""Group records that share arrays: their files lie on one grid and store pixels in one way.

An array of Zarr's has one shape, one type, one chain of codecs and one value without data, and files may differ in any
of them from record to record. Records are therefore put into groups. The name of a group is made of what its files have
in common, so that it is the same at every call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from xxhash import xxh3_64_hexdigest

from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.formats.virtual_zarr._zarr_codecs import codec_chain, refusal
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.select import Record
from rasteret_assets.errors import TileError

#: Name of the array of files that hold several samples of a pixel side by side.
IMAGE: Final = "image"
#: Name of the subgroup of full resolution, beside ``overview_1`` and so on.
FULL: Final = "full"

#: Digits of the hash in a group's name.
_HASH_DIGITS: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayLayout:
    """The properties that the files behind one array share.

    Args:
        name: of the array: the band, or :data:`IMAGE`.
        bands: names of the collection's bands that it holds, by their place in a pixel; one for a band by itself.
        samples: names of all samples that a tile interleaves; empty for a band by itself.
        dtype: numpy's name of the type of a sample.
        codecs: the chain of codecs of every level, as JSON: what zarr's ``create_array`` calls filters, serializer and
            compressors.
        nodata: value of pixels without data, as text; None for a file that has no such value.
        scale: factor that makes a pixel a physical value.
        offset: what is added then.
        tiles: (rows, columns) of a tile of every level.
    """

    name: str
    bands: tuple[str, ...]
    samples: tuple[str, ...]
    dtype: str
    codecs: tuple[str, ...]
    nodata: str | None
    scale: float
    offset: float
    tiles: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLayout:
    """The properties that the records of one group share.

    Args:
        label: first part of the group's name.
        crs: of the rasters, as ``reproject.crs_name`` writes it.
        grid: size of a pixel and place of the first one, as texts that are equal for grids whose pixels coincide.
        levels: (rows, columns) of the full image and of every overview.
        arrays: by name.
    """

    label: str
    crs: str
    grid: tuple[str, ...]
    levels: tuple[tuple[int, int], ...]
    arrays: tuple[ArrayLayout, ...]

    @property
    def digest(self) -> str:
        """Return a hash of the layout, the same in every process."""
        return _digest(self)

    @property
    def name(self) -> str:
        """Return the name of the group: label, size of a pixel, hash."""
        text = f"{self.label}_{self.grid[0]}_{self.digest[:_HASH_DIGITS]}"
        return re.sub(r"[^A-Za-z0-9_.+-]", "-", text).lstrip("._")

    @property
    def bands(self) -> tuple[str, ...]:
        """Return the names of the collection's bands that the group holds."""
        return tuple(band for array in self.arrays for band in array.bands)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Member:
    """One record in one group.

    Args:
        record: with its headers.
        layout: of the group.
        files: the header and the address of the file behind each array, in the order of ``layout.arrays``.
    """

    record: Record
    layout: GroupLayout
    files: Sequence[tuple[BandHeader, str]]

    @property
    def grid(self) -> Grid:
        """Return the pixel grid of the full image."""
        return self.files[0][0].grid


# Many records share few layouts.
@lru_cache(maxsize=4096)
def _digest(layout: GroupLayout) -> str:
    return xxh3_64_hexdigest(json.dumps(asdict(layout), sort_keys=True).encode())


def members_of(record: Record, bands: Sequence[str], label: str | None) -> Iterator[Member]:
    """Put a record into its groups: one for each pixel grid of its bands, and one for each file of several samples.

    Args:
        record: that has the headers of all bands.
        bands: their names.
        label: first part of the groups' names; None for the code of the CRS.
    """
    together: dict[tuple[Any, ...], list[tuple[ArrayLayout, BandHeader, str]]] = {}
    shared: dict[str, list[tuple[str, BandHeader]]] = {}
    for band, header, href in zip(bands, record.headers, record.hrefs, strict=True):
        if header is None:
            continue
        if header.samples > 1:
            shared.setdefault(href, []).append((band, header))
        else:
            together.setdefault((_same_grid(header.grid), _levels(header)), []).append(
                (_layout(band, [band], (), header), header, href)
            )
    for href, named in shared.items():
        header = named[0][1]
        own = [band for band, _ in sorted(named, key=lambda one: (one[1].band_index, one[0]))]
        together[_same_grid(header.grid), _levels(header), href] = [
            (_layout(IMAGE, own, _sample_names(named), header), header, href)
        ]
    for (grid, levels, *_), found in together.items():
        found.sort(key=lambda one: one[0].name)
        layout = GroupLayout(
            label=label or _crs_label(record.crs),
            crs=record.crs,
            grid=grid,
            levels=levels,
            arrays=tuple(array for array, _, _ in found),
        )
        yield Member(record=record, layout=layout, files=[(header, href) for _, header, href in found])


def check_mapped(record: Record, bands: Sequence[str]) -> None:
    """Refuse a record whose pixels arrays cannot hold.

    Args:
        record: to be put into groups.
        bands: names of its bands.

    Raises:
        TileError: naming the record, the band and the reason.
    """
    scaling: dict[str, tuple[str, float, float]] = {}
    for band, header, href in zip(bands, record.headers, record.hrefs, strict=True):
        if header is None:
            continue
        reason = refusal(header)
        first, *stated = scaling.setdefault(href, (band, header.scale, header.offset))
        if reason is None and header.samples > 1 and stated != [header.scale, header.offset]:
            reason = f"its scale or offset is not that of band {first!r}, with which it shares tiles and so an array"
        if reason is not None:
            raise TileError(
                f"record {record.id!r}, band {band!r} has no place in Zarr: {reason}. Leave the band or the record out"
            )


def _layout(name: str, bands: Sequence[str], samples: Sequence[str], header: BandHeader) -> ArrayLayout:
    levels = levels_of(header)
    return ArrayLayout(
        name=name,
        bands=tuple(bands),
        samples=tuple(samples),
        dtype=header.sample_type.name,
        codecs=tuple(codec_chain(level) for level in levels),
        nodata=None if header.nodata is None else str(header.nodata),
        scale=header.scale,
        offset=header.offset,
        tiles=tuple((level.tile_height, level.tile_width) for level in levels),
    )


def levels_of(header: BandHeader) -> list[BandHeader]:
    """Return the header of the full image and those of its overviews, from the finest to the coarsest."""
    return [header, *header.overviews]


def _levels(header: BandHeader) -> tuple[tuple[int, int], ...]:
    return tuple(level.grid.whole.shape for level in levels_of(header))


def _sample_names(named: Sequence[tuple[str, BandHeader]]) -> list[str]:
    """Return the names of all samples of a file; bands of the collection have their own."""
    header = named[0][1]
    names = [f"sample_{index}" for index in range(header.samples)]
    if header.alpha is not None:
        names[header.alpha] = "alpha"
    for band, one in reversed(named):  # the first of two names of one sample counts
        names[one.band_index] = band
    return names


def _same_grid(grid: Grid) -> tuple[str, ...]:
    """Return texts that are equal for grids whose pixels coincide, whatever digits files state origins with."""
    scales = f"{grid.scale_x:.9g}", f"{grid.scale_y:.9g}"
    corner = f"{grid.origin_x / grid.scale_x:.2f}", f"{grid.origin_y / grid.scale_y:.2f}"
    return f"{abs(grid.scale_x):.9g}", *scales, *corner


def _crs_label(crs: str) -> str:
    authority, _, code = crs.partition(":")
    return f"{authority}-{code}" if code.isalnum() and authority.isalnum() else "crs"


def nodata_of(layout: ArrayLayout) -> Any:
    """Return the value of pixels without data in the type of the array; None for an array without one."""
    return None if layout.nodata is None else np.dtype(layout.dtype).type(layout.nodata)
