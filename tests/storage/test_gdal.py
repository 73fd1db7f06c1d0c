"""Addresses as GDAL writes them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from rasteret_assets.storage.addresses.gdal import gdal_addresses, plain_address

SPELLINGS = {
    "https://host/a b.tif?version=2": "/vsicurl/https://host/a b.tif?version=2",
    "HTTP://host/a.tif": "/vsicurl/HTTP://host/a.tif",
    "s3://bucket/key.tif": "/vsis3/bucket/key.tif",
    "s3a://bucket/key.tif": "/vsis3/bucket/key.tif",
    "gs://bucket/key.tif": "/vsigs/bucket/key.tif",
    "gcs://bucket/key.tif": "/vsigs/bucket/key.tif",
    "az://container/key.tif": "/vsiaz/container/key.tif",
    "abfs://container/key.tif": "/vsiaz/container/key.tif",
    "abfss://container@account.dfs.core.windows.net/key.tif": "/vsiadls/container/key.tif",
    "/data/a.tif": "/data/a.tif",
    "~/a.tif": str(Path.home() / "a.tif"),
    "file:///data/a%20b.tif": "/data/a b.tif",
    "/vsicurl/https://host/a.tif": "/vsicurl/https://host/a.tif",
    "swift://container/a.tif": None,
    "a.tif": None,
}


def test_every_scheme_that_is_read_has_a_spelling() -> None:
    assert gdal_addresses(pa.array([*SPELLINGS, None])).to_pylist() == [*SPELLINGS.values(), None]
    assert gdal_addresses(pa.array([], pa.string())).to_pylist() == []


@pytest.mark.parametrize("href", ["https://host/a.tif", "s3://bucket/key.tif", "gs://bucket/key.tif"])
def test_spellings_are_read_back(href: str) -> None:
    assert plain_address(gdal_addresses(pa.array([href]))[0].as_py()) == href
