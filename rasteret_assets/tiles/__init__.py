"""Readers and a mosaic backend for rio-tiler, so that TiTiler serves a collection without opening a header.

>>> from rasteret_assets import load
>>> from rasteret_assets.tiles import CollectionBackend, RecordReader, record
>>> scenes = load("scenes_records")
>>> with RecordReader(record(scenes, "S2A_32UMU")) as src:
...     image = src.tile(8600, 5675, 14, assets=["B04"])
>>> with CollectionBackend(scenes) as mosaic:
...     image, records = mosaic.tile(8600, 5675, 14, assets=["B04"])

Needs the extra ``tiles``: rio-tiler is imported with this package, and by nothing else of rasteret_assets.
"""

from rasteret_assets.collection.extras import optional

optional("rio_tiler", extra="tiles", purpose="rasteret_assets.tiles")

from rasteret_assets.tiles.mosaic_backend import CollectionBackend, TooManyRecordsError  # noqa: E402
from rasteret_assets.tiles.readers import BandReader, PaletteWarning, RecordReader  # noqa: E402
from rasteret_assets.tiles.record_index import IndexedRecord, RecordNotFoundError, record  # noqa: E402

__all__ = [
    "BandReader",
    "CollectionBackend",
    "IndexedRecord",
    "PaletteWarning",
    "RecordNotFoundError",
    "RecordReader",
    "TooManyRecordsError",
    "record",
]
