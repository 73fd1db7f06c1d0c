"""The published collection: opening, querying and reading pixels from it, without opening a header again."""
