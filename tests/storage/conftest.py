"""Places for files: a folder on a disk, and one in a bucket."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from tests.support.s3 import bucket_server, filesystem_of

#: A filesystem, and a folder on it that no other test uses.
Place = tuple[pafs.FileSystem, str]


@pytest.fixture(scope="module")
def s3() -> Iterator[pafs.FileSystem]:
    """A filesystem with the bucket ``bucket``."""
    with bucket_server("bucket") as endpoint:
        yield filesystem_of(endpoint)


@pytest.fixture
def on_s3(s3: pafs.FileSystem) -> Place:
    return s3, f"bucket/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "s3"])
def on_disk_or_s3(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return pafs.LocalFileSystem(), str(tmp_path / "w")
    place: Place = request.getfixturevalue("on_s3")
    return place
