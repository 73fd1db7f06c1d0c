"""Keep the schemas of a record table's files in the workspace, so that footers of unchanged files are not opened."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import pyarrow as pa

from rasteret_assets.errors import CollectionError
from rasteret_assets.storage.workspace import Workspace

_COLUMNS: Final = pa.schema([("version", pa.string()), ("schema", pa.binary())])


class KeptSchemas:
    """Keeps schemas in a table of the workspace, with a row for each file: its version and its serialised schema.

    Args:
        workspace: of the collection.
        trust_stored: whether the stored schemas count; otherwise every footer is opened, and its schema stored anew.
    """

    def __init__(self, workspace: Workspace, *, trust_stored: bool = True) -> None:
        self._workspace = workspace
        self._trust_stored = trust_stored
        self._path = f"{workspace.stages}/source_schemas.parquet"

    def alone(self) -> AbstractContextManager[object]:
        """Hold the lock of the source, so that only one of several processes opens the new files."""
        return self._workspace.lock_source() if self._trust_stored else nullcontext()

    def load(self) -> dict[str, pa.Schema]:
        """Return the schemas that were kept last, by version of the file; files of equal schemas share one object."""
        if not self._trust_stored:
            return {}
        try:
            table = self._workspace.read_table(self._path)
        except CollectionError:
            return {}  # the footers are opened instead, because they hold the same schemas
        if table is None or table.schema.names != _COLUMNS.names:
            return {}
        encoded = table["schema"].combine_chunks().dictionary_encode()
        schemas = [pa.ipc.read_schema(pa.py_buffer(text)) for text in encoded.dictionary.to_pylist()]
        places = encoded.indices.to_pylist()
        return {version: schemas[place] for version, place in zip(table["version"].to_pylist(), places, strict=True)}

    def keep(self, schemas: Mapping[str, pa.Schema]) -> None:
        """Keep schemas in the place of those that were kept before.

        Raises:
            WorkspaceError: if the table cannot be written.
        """
        # Each schema is serialised once, because many files share one; Parquet stores it once, as a dictionary.
        texts: dict[int, bytes] = {}
        for schema in schemas.values():
            if id(schema) not in texts:
                texts[id(schema)] = schema.serialize().to_pybytes()
        rows = [list(schemas), [texts[id(schema)] for schema in schemas.values()]]
        self._workspace.write_table(
            self._path, pa.table(rows, schema=_COLUMNS), compression="zstd", use_dictionary=["schema"]
        )
