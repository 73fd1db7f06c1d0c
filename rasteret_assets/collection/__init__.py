"""The published collection: opening, querying and reading pixels from it, without opening a header again."""

from rasteret_assets.collection.collection import Collection
from rasteret_assets.collection.load import as_collection, load
from rasteret_assets.collection.pixels.pixel_request import ReadPlan
from rasteret_assets.collection.request import ReadRequest

__all__ = ["Collection", "ReadPlan", "ReadRequest", "as_collection", "load"]
