"""Draw some pixels of a published partition, to show that its index leads to its files.

One record is drawn as :meth:`rasteret_assets.Collection.preview` draws it, through the published index, by a few range
requests and without reading a header. If the record cannot be drawn, the text says why, and the run goes on.
"""

from collections.abc import Sequence
from typing import Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rasteret_assets.collection import Collection, as_collection
from rasteret_assets.collection.areas.area import Area
from rasteret_assets.collection.formats.picture import Picture, default_bands, draw_record
from rasteret_assets.collection.pixels.band import BandHeader
from rasteret_assets.collection.pixels.read_options import ReadOptions
from rasteret_assets.collection.pixels.select import every_record, projection
from rasteret_assets.errors import RasteretAssetsError
from rasteret_assets.orchestration.pages.markdown import picture, plain_text
from rasteret_assets.schema import CLOUD_COVER, band_column
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.workspace import Workspace

#: Pixels along the longer side of a picture. A record with an overview of at most this size is drawn as a whole.
_SIZE: Final = 400
#: Pixels along each side of the middle part that is drawn of a record with larger overviews only.
_MIDDLE: Final = 224
#: Grey value of pixels that have no data.
_GROUND: Final = 236
_QUALITY: Final = 80


def preview(workspace: Workspace, path: str, backend: StorageBackend) -> str:
    """Return Markdown with the picture of a published file, or with the reason why it cannot be drawn.

    Args:
        workspace: of the collection.
        path: of the published file.
        backend: that reads the pixels.
    """
    schema = workspace.read_schema(path)
    bands = () if schema is None else default_bands(as_collection(schema.empty_table(), require_band_metadata=False))
    for batch in workspace.read_batches(path) if bands else ():
        whole = np.logical_and.reduce([np.asarray(pc.is_valid(batch.column(band_column(band)))) for band in bands])
        if whole.any():
            record = batch.slice(_clearest(batch, np.flatnonzero(whole)), 1)
            return _shown(as_collection(pa.Table.from_batches([record])), bands, backend)
    return "no record has the headers of all bands that a picture needs"


def _clearest(records: pa.RecordBatch, rows: npt.NDArray[np.intp]) -> int:
    """Return the row with the least cloud cover, the first of equal ones; the first row if cloud cover is unknown."""
    place = records.schema.get_field_index(CLOUD_COVER)
    kind = None if place < 0 else records.schema.field(place).type
    if kind is None or not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        return int(rows[0])
    clouds = np.asarray(pc.fill_null(records.column(place).cast(pa.float64()), np.inf))[rows]
    return int(rows[np.argmin(np.nan_to_num(clouds, nan=np.inf))])


def _shown(collection: Collection, bands: Sequence[str], backend: StorageBackend) -> str:
    name = collection.to_table(columns=["id"])["id"][0].as_py()
    try:
        (record,) = every_record(collection.batches(projection(collection.schema, bands)), bands)
        size = _fitting(record.finest)
        # By the raster and not by the footprint, because record tables may have wrong footprints.
        area = _middle(record.finest, record.crs) if size is None else None
        drawn = draw_record(record, bands, area, size=size or _MIDDLE, backend=backend, options=ReadOptions())
    except RasteretAssetsError as error:
        return f"no picture of {plain_text(name)}: {plain_text(str(error))}"
    return picture(f"{name}: {', '.join(bands)}", "image/jpeg", _jpeg(drawn))


def _fitting(header: BandHeader) -> int | None:
    """Return the longer side of the largest level of an image that fits into a picture; None if no level fits."""
    sizes = [max(level.grid.width, level.grid.height) for level in (header, *header.overviews)]
    return next((size for size in sizes if size <= _SIZE), None)


def _middle(header: BandHeader, crs: str) -> Area:
    """Return the area of the middle of an image."""
    left, bottom, right, top = header.grid.bounds
    half_x = min((right - left) / 2, abs(header.grid.scale_x) * _MIDDLE / 2)
    half_y = min((top - bottom) / 2, abs(header.grid.scale_y) * _MIDDLE / 2)
    x, y = (left + right) / 2, (bottom + top) / 2
    return Area.of_bounds((x - half_x, y - half_y, x + half_x, y + half_y), crs)


def _jpeg(drawn: Picture) -> bytes:
    """Return a picture as JPEG, which takes a tenth of the bytes of PNG, because Dagster keeps it in its event log."""
    colours, alpha = drawn.pixels[..., :3], drawn.pixels[..., 3:]
    flat: npt.NDArray[np.uint8] = np.where(alpha, colours, np.uint8(_GROUND))
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(flat), level=_QUALITY))
