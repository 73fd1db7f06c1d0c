"""A collection as a user has one: a year of scenes whose table lies in a bucket, and whose files a web server has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rasteret_assets.demo.scenes import BROKEN, write_records, write_scenes
from tests.support.s3 import KEYS, bucket_server, filesystem_of
from tests.support.server import RangeServer

#: What the table calls the web server. Requests reach ours because it is named as the proxy.
FILES = "http://data.example/scenes"
BUCKET = "maps"
MONTHS = [f"{2023 + number // 12}-{number % 12 + 1:02d}" for number in range(6, 18)]


@dataclass
class Catalog:
    """The record table, and where it and its files lie.

    Args:
        server: of the files.
        endpoint: of the bucket.
        scenes: that were written, over which the months are made.
        folder: of their files.
        wrong: records whose footprint is not to be read.
        added: further records by month.
    """

    server: RangeServer
    endpoint: str
    scenes: list[dict[str, Any]]
    folder: Path
    wrong: set[str] = field(default_factory=set)
    added: dict[str, int] = field(default_factory=dict)

    @property
    def table(self) -> str:
        """Address of the record table."""
        return f"s3://{BUCKET}/scenes.parquet"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach both."""
        keys = {name.upper(): value for name, value in KEYS.items()}
        return {
            **keys, "AWS_ENDPOINT_URL": f"http://{self.endpoint}", "AWS_REGION": "us-east-1",
            "http_proxy": self.server.url, "no_proxy": "0.0.0.0,127.0.0.1",
        }  # fmt: skip

    def records(self, month: str) -> list[dict[str, Any]]:
        """The scenes of a month: between five and nine."""
        number = MONTHS.index(month)
        year, in_year = map(int, month.split("-"))
        made = []
        for place in range(5 + number * 7 % 5 + self.added.get(month, 0)):
            scene = self.scenes[(place * 5 + number) % len(self.scenes)]
            time = datetime(year, in_year, 2 + 2 * place, 10, 40, tzinfo=UTC)
            name = f"{scene['id'][:-8]}{time:%Y%m%d}"
            assets = {
                band: {**asset, "href": asset["href"].replace(scene["id"], name)}
                for band, asset in scene["assets"].items()
            }
            made.append({**scene, "id": name, "datetime": time, "assets": assets})
            for file in (self.folder / scene["id"]).iterdir():
                self.server.objects.setdefault(f"{FILES}/{name}/{file.name}", file.read_bytes())
        return made

    def write(self) -> None:
        """Put the table into the bucket as it now is."""
        rows = [scene for month in MONTHS for scene in self.records(month)]
        beside = self.folder / "scenes.parquet"
        write_records(beside, rows, FILES)
        table = pq.read_table(beside)
        broken = pc.is_in(table["id"], pa.array(sorted(self.wrong), pa.string()))
        geometry = pc.if_else(broken, pa.scalar(b"no footprint"), table["geometry"])
        table = table.set_column(table.schema.get_field_index("geometry"), "geometry", geometry)
        pq.write_table(table, f"{BUCKET}/scenes.parquet", filesystem=filesystem_of(self.endpoint))


@contextmanager
def catalog(server: RangeServer, folder: Path) -> Iterator[Catalog]:
    """Serve the scenes and an empty bucket."""
    files = folder / "files"
    files.mkdir()
    # Without the one whose upload broke off.
    scenes = [scene for scene in write_scenes(files, lambda: None) if scene["id"] != BROKEN[0]]
    with bucket_server(BUCKET) as endpoint:
        yield Catalog(server=server, endpoint=endpoint, scenes=scenes, folder=files)
