"""Choose the backend of a read, and share the default ones, so that connections outlive a call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rasteret_assets.credentials import credentials_key
from rasteret_assets.spec import CloudConfig
from rasteret_assets.storage.backend import StorageBackend
from rasteret_assets.storage.create import close_backend, create_backend
from rasteret_assets.storage.process.processes import OfProcess, at_exit, run_sync, shared_loop

if TYPE_CHECKING:
    from rasteret_assets.collection.pixels.record_table import RecordTable


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the bytes of a read come from; it can be pickled unless the user's own backend cannot.

    A shared backend is opened in the process that reads, because its connections cannot be sent to another process.

    Args:
        backend: the user's own; None for a shared one.
        data_source: of the collection.
        config: how the provider's objects are reached.
        credentials: what opens the files.
    """

    backend: StorageBackend | None
    data_source: str
    config: CloudConfig | None
    credentials: str | Mapping[str, str] | None = None

    @classmethod
    def of(cls, table: RecordTable, arguments: Mapping[str, Any]) -> Source:
        """Return the source of a read: the backend given, else the table's own, else a shared one.

        Args:
            table: whose records are read.
            arguments: ``backend``, ``cloud_config`` and ``data_source`` of the read.
        """
        backend, config, data_source = (arguments[name] for name in ("backend", "cloud_config", "data_source"))
        return cls(
            backend=backend or (None if config or data_source else table.backend),
            data_source=table.data_source if data_source is None else data_source,
            config=config or (None if data_source else table.cloud_config),
            credentials=table.credentials,
        )

    def open(self) -> StorageBackend:
        """Return the backend.

        Raises:
            SpecError: if the credentials name no function.
        """
        return self.backend or shared_backend(self.data_source, self.config, self.credentials)


def shared_backend(
    data_source: str, config: CloudConfig | None = None, credentials: str | Mapping[str, str] | None = None
) -> StorageBackend:
    """Return the shared backend for a cloud configuration: the given one, else that registered for a data source.

    Args:
        data_source: of a collection.
        config: how the provider's objects are reached.
        credentials: what opens the files.

    Raises:
        SpecError: if the credentials name no function.
    """
    config = config or CloudConfig.get_config(data_source)
    text = f"{'' if config is None else config.model_dump_json()} {credentials_key(credentials)}"
    backends = _shared.get()
    backend = backends.get(text)
    if backend is None:
        # The loop is made before the backend, so that it stops after the backend's connections are closed.
        shared_loop()
        backend = backends.setdefault(text, create_backend(cloud_config=config, credentials=credentials))
        at_exit(lambda: run_sync(close_backend(backend)))
    return backend


#: Backends by cloud configuration and credentials, both as text.
_shared: OfProcess[dict[str, StorageBackend]] = OfProcess(dict)
