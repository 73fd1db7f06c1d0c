"""A picture of some pixels of a published partition: the proof that its index leads to its files.

The middle of one record, in one or three of its bands, is read through the published index as a reader would: a few
range requests, and no header. What keeps it from being read is said instead, and fails no run.
"""

import base64
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely

from rasteret_assets.collection import as_collection
from rasteret_assets.errors import RasteretAssetsError
from rasteret_assets.orchestration.markdown import picture, plain_text
from rasteret_assets.schema import BBOX, BBOX_AXES, BBOX_TYPE, CRS, GEOMETRY, ID, METADATA_SUFFIX, is_band_field
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.workspace import Workspace

#: Pixels to the left, right, top and bottom of the middle.
_HALF: Final = 112
_EARTH: Final = (-180.0, -90.0, 180.0, 90.0)


def preview(workspace: Workspace, path: str, backend: StorageBackend) -> str:
    """Return Markdown with the picture of a published file, or why it has none.

    Args:
        workspace: on whose filesystem the file lies.
        path: of the published file.
        backend: where pixels come from.
    """
    schema = workspace.read_schema(path)
    columns = [field.name for field in schema or () if is_band_field(field)]
    columns = columns[:3] if len(columns) >= 3 else columns[:1]
    for batch in workspace.read_batches(path) if columns else ():
        whole = np.logical_and.reduce([np.asarray(pc.is_valid(batch.column(column))) for column in columns])
        if whole.any():
            record = pa.Table.from_batches([batch.slice(int(np.flatnonzero(whole)[0]), 1)])
            return _picture(_anywhere(record), columns, backend)
    return "no record has all the headers that a picture takes"


def _anywhere(record: pa.Table) -> pa.Table:
    """Let a record's footprint be the whole Earth: its raster is to be drawn, wherever the record says that it lies."""
    earth = {
        GEOMETRY: pa.array([shapely.to_wkb(shapely.box(*_EARTH))], pa.binary()),
        BBOX: pa.array([dict(zip(BBOX_AXES, _EARTH, strict=True))], BBOX_TYPE),
    }
    for name, column in earth.items():
        record = record.set_column(record.schema.get_field_index(name), name, column)
    return record


def _picture(record: pa.Table, columns: list[str], backend: StorageBackend) -> str:
    header: dict[str, Any] = record[columns[0]][0].as_py()
    name, bands = record[ID][0].as_py(), [column.removesuffix(METADATA_SUFFIX) for column in columns]
    scale_x, left, scale_y, top = header["transform"]
    middle_x, middle_y = left + scale_x * header["image_width"] / 2, top + scale_y * header["image_height"] / 2
    half_x = abs(scale_x) * min(_HALF, header["image_width"] / 2)
    half_y = abs(scale_y) * min(_HALF, header["image_height"] / 2)
    window = (middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y)
    try:
        pixels = as_collection(record).get_numpy(
            window, bands, geometry_crs=header["crs"] or record[CRS][0].as_py(), backend=backend, allow_resample=True
        )  # fmt: skip
    except RasteretAssetsError as error:
        return f"no picture of {plain_text(name)}: {plain_text(str(error))}"
    encoded = base64.b64encode(
        imagecodecs.jpeg8_encode(_shown(pixels.reshape(-1, *pixels.shape[-2:])), level=80)
    ).decode()
    return picture(f"{name}: {', '.join(bands)}", "image/jpeg", encoded)


def _shown(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return ``[bands, rows, columns]`` as ``[rows, columns(, 3)]`` of bytes, from the 2nd to the 98th percentile."""
    values = np.nan_to_num(np.real(pixels).astype(np.float64), posinf=0, neginf=0)
    low, high = (np.percentile(values, q, axis=(1, 2), keepdims=True) for q in (2, 98))
    stretched = np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1) * 255
    image = np.moveaxis(stretched.astype(np.uint8), 0, -1)
    return np.ascontiguousarray(image if image.shape[-1] == 3 else image[..., 0])
