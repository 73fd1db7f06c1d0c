"""Make instances of the shipped instance settings, with SQLite in place of services."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import dagster as dg
import yaml

EXAMPLES: Final = Path(__file__).parent.parent.parent / "examples"

#: Every ``dagster*.yaml`` below the examples, by its path there.
SETTINGS: Final[dict[str, dict[str, Any]]] = {
    str(path.relative_to(EXAMPLES)): yaml.safe_load(path.read_text())
    for path in sorted(EXAMPLES.rglob("dagster*.yaml"))
}


@contextmanager
def on_sqlite(settings: Mapping[str, Any], home: Path) -> Iterator[dg.DagsterInstance]:
    """Make an instance of settings below ``home``, with SQLite in place of Postgres."""
    (home / "dagster.yaml").write_text(yaml.safe_dump({key: settings[key] for key in settings.keys() - {"storage"}}))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance
