"""The published collection: opening, querying and reading pixels from it, without opening a header again."""

from rasteret_assets.collection.collection import Collection
from rasteret_assets.collection.load import as_collection, load

__all__ = ["Collection", "as_collection", "load"]
