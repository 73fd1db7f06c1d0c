"""A mirror over HTTPS is indexed and kept up to date: a fold of its live file costs what changed, and no header."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rasteret_assets import CollectionSpec, build, load, plan
from rasteret_assets.pipeline.build import BuildReport
from tests.support.mirror import Mirror, bytes_asked, key, serving
from tests.support.peak import HeadersInMemory
from tests.support.rasters import tiff_bytes

MONTHS, ROWS, FILES = 5, 600, 500


@pytest.fixture(scope="module")
def headers() -> HeadersInMemory:
    return HeadersInMemory(tiff_bytes(), 0, 0)


def test_a_fold_of_the_live_file_asks_for_no_header_and_rebuilds_only_changed_months(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: HeadersInMemory
) -> None:
    folder, bundle = tmp_path / "mirror", tmp_path / "ca.pem"
    folder.mkdir()
    mirror = Mirror(folder, MONTHS, ROWS, FILES)
    with serving(folder, bundle) as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
        spec = CollectionSpec.of(
            path=f"{server.url}/collection.json", name="mirror", workspace_dir=tmp_path / "w", enrich_cog=True,
            band_codes=["B02"], overlap="newest by updated",
        )  # fmt: skip

        def built() -> BuildReport:
            server.reset()
            return build(spec, backend=headers)

        def check() -> None:
            table = load(spec.published_path).to_table()
            numbers = np.array([int(name.removeprefix("scene-")) for name in table["id"].to_pylist()])
            everything = np.union1d(np.concatenate(list(mirror.archive.values())), mirror.live)
            assert np.array_equal(np.sort(numbers), everything)
            assert np.array_equal(np.asarray(table["eo:cloud_cover"]), mirror.revisions[numbers])

        # Changes of two months, and records of a new one.
        mirror.change(np.concatenate([mirror.numbers(1, 30), mirror.numbers(3, 30), mirror.numbers(MONTHS, 200)]))
        first = built()
        assert first.totals["headers_fetched"] > 0
        assert first.totals["superseded_records"] == 60
        check()

        # Nothing has changed: the document, and four bytes of each file.
        assert not built().reasons
        assert len(server.requests) == 1 + MONTHS + 1
        assert bytes_asked(server) == 4 * (MONTHS + 1)

        for fold in (mirror.merge, mirror.empty):
            changed = fold() or ["/live.parquet"]
            assert not plan(spec).partitions
            report = built()
            assert not report.reasons
            read = {path for path, ranged in server.requests if ranged not in {"bytes=0-3", "bytes=0-33554432"}}
            assert read <= {*changed}
            check()

        # A change of one month's record is one month, and its known header is not asked for again.
        mirror.change(mirror.numbers(2, 1))
        report = built()
        assert list(report.reasons) == [key(2)]
        assert report.totals["headers_fetched"] == 0
        check()
