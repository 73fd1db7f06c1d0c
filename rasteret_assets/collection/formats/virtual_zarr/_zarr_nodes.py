"""Make the groups, arrays and coordinates of a virtual Zarr store, and append records to them.

A group holds the subgroup ``full`` and one for each overview, ``overview_1`` and so on, side by side, because xarray's
``open_datatree`` admits no subgroup whose x and y differ from its parent's. Each is a dataset by the CF conventions
whose arrays have no chunk of their own; coordinates are stored.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from rasteret_assets.collection.areas.grid import Grid
from rasteret_assets.collection.formats.cf import (
    GRID_MAPPING,
    axis_attributes,
    instants,
    mapping_attributes,
)
from rasteret_assets.collection.formats.virtual_zarr._zarr_layout import (
    FULL,
    ArrayLayout,
    GroupLayout,
    Member,
    levels_of,
    nodata_of,
)
from rasteret_assets.errors import CollectionError
from rasteret_assets.storage.process.processes import run_sync

TIME: Final = "time"
ID: Final = "id"
#: Array beside ``id``: hashes that tell which version of its files a record has references to.
VERSION: Final = "file_version"

#: Attribute of a group that holds the facts this package needs to append to it.
_OWN: Final = "rasteret_assets"
#: Records in a chunk of the coordinates along time.
_TIMES_AT_ONCE: Final = 1024

#: The name under which virtual-tiff registers a codec, by the name that it writes.
_REGISTERED: Final = {"HorizontalDeltaCodec": "virtual_tiff.HorizontalDeltaCodec"}

_MULTISCALES: Final = {
    "name": "multiscales",
    "uuid": "d35379db-88df-4056-af3a-620245f8e347",
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/multiscales/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/multiscales/blob/v1/README.md",
}


@contextmanager
def quiet_codecs() -> Iterator[None]:
    """Silence the warning that a codec is not part of the Zarr specification, which each of its uses would repeat."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(?:codecs are not in the Zarr|not have a Zarr V3 specification).*")
        yield


def level_names(layout: GroupLayout) -> list[str]:
    """Return the names of the subgroups of a group, from the finest to the coarsest."""
    return [FULL, *(f"overview_{number}" for number in range(1, len(layout.levels)))]


def read_group(group: Any) -> tuple[tuple[str, ...], str] | None:
    """Return the bands and the digest of the layout of a group that this package made; None for any other."""
    own = group.attrs.get(_OWN)
    return (tuple(own["bands"]), own["layout"]) if isinstance(own, dict) else None


def open_group(root: Any, member: Member) -> Any:
    """Open the group of a member, and make it where it does not exist.

    Args:
        root: zarr group of the store.
        member: the first record to be appended.

    Raises:
        CollectionError: if a group of that name was not made for records of this layout.
    """
    layout = member.layout
    if layout.name in root:
        group = root[layout.name]
        if read_group(group) != (layout.bands, layout.digest):
            raise CollectionError(
                f"the group {layout.name} of the Icechunk repository was not made for record {member.record.id!r}: "
                "rename it, or write to another repository"
            )
        return group
    own = {"bands": list(layout.bands), "layout": layout.digest}
    attributes: dict[str, Any] = {_OWN: own, "zarr_conventions": [_MULTISCALES], "multiscales": _multiscales(layout)}
    group = root.create_group(layout.name, attributes=attributes)
    for number, name in enumerate(level_names(layout)):
        node = group.create_group(name)
        _create_coordinates(node, layout, levels_of(member.files[0][0])[number].grid, is_full=name == FULL)
        for array in layout.arrays:
            _create_array(node, layout, array, number)
    _change_documents(group, _array_paths(layout), _name_codecs)
    return group


def _array_paths(layout: GroupLayout) -> list[str]:
    """Return the paths of all arrays of tiles within a group."""
    return [f"{name}/{array.name}" for name in level_names(layout) for array in layout.arrays]


def _name_codecs(document: dict[str, Any]) -> None:
    # virtual-tiff writes another name than the one that it registers, by which readers find the codec.
    for codec in document["codecs"]:
        codec["name"] = _REGISTERED.get(codec["name"], codec["name"])


def _change_documents(group: Any, paths: Sequence[str], change: Callable[[dict[str, Any]], None]) -> None:
    """Change the metadata documents of arrays, as Zarr v3 names them; their codecs are not loaded."""
    buffers = importlib.import_module("zarr.buffer.cpu").buffer_prototype

    async def rewrite(path: str) -> None:
        key = f"{group.path}/{path}/zarr.json"
        document = json.loads((await group.store.get(key, buffers)).to_bytes())
        change(document)
        await group.store.set(key, buffers.buffer.from_bytes(json.dumps(document).encode()))

    async def rewrite_all() -> None:
        await asyncio.gather(*map(rewrite, paths))

    run_sync(rewrite_all())


def append_rows(group: Any, members: Sequence[Member], versions: npt.NDArray[np.uint64]) -> int:
    """Make room for records along time, and write their coordinates; return the position of the first of them.

    Args:
        group: of all of them.
        members: the records, in order.
        versions: uint64 ``[N]``, of their files.
    """
    layout = members[0].layout
    columns: dict[str, Any] = {
        f"{name}/{column}": values
        for name in level_names(layout)
        for column, values in (
            (TIME, _moments(members)),
            (ID, np.array([member.record.id for member in members], dtype=object)),
            (VERSION, versions),
        )
        if column != VERSION or name == FULL
    }
    start = 0

    def lengthen(document: dict[str, Any]) -> None:
        nonlocal start
        start = document["shape"][0]  # the same of all arrays along time
        document["shape"][0] = start + len(members)

    # All documents together, because zarr-python would read and write each on its own, one after the other.
    _change_documents(group, [*_array_paths(layout), *columns], lengthen)
    for path, values in columns.items():
        group[path][start:] = values
    return start


def rewrite_row(group: Any, member: Member, version: np.uint64, position: int) -> None:
    """Write the coordinates of a record whose files were replaced."""
    (moment,) = _moments([member])
    for name in level_names(member.layout):
        group[f"{name}/{TIME}"][position] = moment
    group[f"{FULL}/{VERSION}"][position] = version


def _moments(members: Sequence[Member]) -> npt.NDArray[np.int64]:
    """Return datetimes in microseconds since 1970; undated records get the least number, NaT for xarray."""
    return instants([member.record.moment for member in members]).astype(np.int64)


def _multiscales(layout: GroupLayout) -> dict[str, Any]:
    """Return the levels as the convention for multiscales lists them, with scales of (y, x)."""
    rows, columns = layout.levels[0]
    listed: list[dict[str, Any]] = []
    for name, (height, width) in zip(level_names(layout), layout.levels, strict=True):
        transform = {"scale": [rows / height, columns / width], "translation": [0.0, 0.0]}
        derived = {} if name == FULL else {"derived_from": FULL}
        listed.append({"asset": name, **derived, "transform": transform})
    return {"layout": listed}


def _create_coordinates(node: Any, layout: GroupLayout, grid: Grid, *, is_full: bool) -> None:
    x, y = grid.centres
    axes = axis_attributes(layout.crs)
    for name, values, attributes in (("x", x, axes["X"]), ("y", y, axes["Y"])):
        node.create_array(name, data=values, chunks=values.shape, dimension_names=(name,), attributes=attributes)
    mapping = mapping_attributes(layout.crs, grid)
    node.create_array(GRID_MAPPING, data=np.array(0), dimension_names=(), attributes=mapping)
    units = {"units": "microseconds since 1970-01-01", "calendar": "proleptic_gregorian", "standard_name": "time"}
    along: dict[str, tuple[Any, dict[str, Any]]] = {TIME: ("int64", units), ID: (str, {})}
    if is_full:
        along[VERSION] = ("uint64", {"long_name": "hash of the addresses, tags and sizes of the files of the record"})
    for name, (dtype, attributes) in along.items():
        node.create_array(
            name, shape=(0,), chunks=(_TIMES_AT_ONCE,), dtype=dtype, dimension_names=(TIME,), attributes=attributes
        )
    for array in layout.arrays:
        if count := len(array.samples):
            names = node.create_array("band", shape=(count,), chunks=(count,), dtype=str, dimension_names=("band",))
            names[:] = np.array(array.samples, dtype=object)


def _create_array(node: Any, layout: GroupLayout, array: ArrayLayout, level: int) -> None:
    nodata = nodata_of(array)
    attributes: dict[str, Any] = {"grid_mapping": GRID_MAPPING, "coordinates": f"{ID} {GRID_MAPPING}"}
    if node.basename == FULL:
        attributes["coordinates"] += f" {VERSION}"
    if nodata is not None:
        attributes["_FillValue"] = _fill_value(nodata)
    if (array.scale, array.offset) != (1.0, 0.0):
        attributes |= {"scale_factor": array.scale, "add_offset": array.offset}
    samples = (len(array.samples),) if array.samples else ()
    names = (TIME, *(("band",) if samples else ()), "y", "x")
    node.create_array(
        array.name,
        shape=(0, *samples, *layout.levels[level]),
        chunks=(1, *samples, *array.tiles[level]),
        dtype=array.dtype,
        **json.loads(array.codecs[level]),
        # Tiles that are not stored hold it, as GDAL reads them.
        fill_value=np.dtype(array.dtype).type(0) if nodata is None else nodata,
        dimension_names=names,
        attributes=attributes,
    )


def _fill_value(nodata: Any) -> int | str:
    """Return the attribute that tells xarray nodata: of floats the eight bytes of a double, as base64."""
    if np.issubdtype(type(nodata), np.integer):
        return int(nodata)
    return base64.standard_b64encode(struct.pack("<d", float(nodata))).decode()
