"""Secrets in every place of a record table's addresses: none comes out of a build, and what names a file stays."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import stat
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import rasteret_assets as ra
from rasteret_assets.cli import main
from tests.support.rasters import record_table, tiff_bytes
from tests.support.server import RangeServer

#: Stages whose files keep addresses as they are fetched, for their owner alone.
KEEPING = {"raw_records", "normalized_records", "rejected_records", "headers"}
SECRETS = [f"PLANTED{number:03}" for number in range(100)]
HARMLESS = [f"harmless{number:02}" for number in range(50)]

#: Addresses of a file, with H for the host, S for a secret and P for a parameter that may name the file.
FORMS = [
    "http://H/a.tif?P=1&sig=S", "http://H/a.tif?P=1&api_key=S", "http://H/a.tif?P=1#access_token=S",
    "http://me:S@H/a.tif?P=1", "http://H/a.tif;token=S?P=1", "/vsicurl/http://H/a.tif?P=1&X-Amz-Signature=S",
    "/vsicurl?list_dir=no&url=http%3A%2F%2FH%2Fa.tif%3FP%3D1%26subscription-key%3DS", "http://H/a.tif?P=1&%73ig=S",
    "http://H/gone.tif?P=1&password=S", "http://me:S@H/gone.tif?P=1", "//me:S@H/a.tif?P=1", "/gone/a.tif?P=1&token=S",
    "/vsizip//vsicurl/http://me:S@H/a.zip/a.tif?P=1", "http://H/a.tif?P=1&amp;jwt=S", "a.tif?P=1&sessionId=S",
    "http://H/gone.tif?P=1&mine=S", "ftp://me:S@H/a.tif?P=1", "http://H/gone.tif?P=1&hdnts=exp=1~acl=/*~hmac=S",
]  # fmt: skip


@pytest.fixture
def planted(tmp_path: Path, server: RangeServer) -> tuple[Path, list[str]]:
    """A record table with a hundred secrets, and what of its addresses has to stay."""
    server.objects["/a.tif"] = tiff_bytes()
    host = server.url.removeprefix("http://")
    left, kept, rows = list(SECRETS), [], 40
    hrefs, notes, documents = [], [], []
    for row in range(rows):
        parameter = HARMLESS[row]
        form = FORMS[row % len(FORMS)]
        hrefs.append(form.replace("H", host).replace("S", left.pop()).replace("P", parameter))
        kept.append(parameter)
        notes.append(f"See http://{host}/b.tif?w=1&token={left.pop()}, or ask." if row < 30 else None)
        document = None
        if row < 30:
            inner = {"download": f"https://me@{host}/c.tif?{HARMLESS[-1 - row % 10]}=1&key={left.pop()}"}
            document = json.dumps({"inner": json.dumps(inner)})
        documents.append(document)
    assert not left
    kept += HARMLESS[-10:]
    times = [datetime(2024, 5, 5, tzinfo=UTC)] * rows
    ids = [f"r{row}" for row in range(rows)]
    table = record_table(ids, {"B02": hrefs}, datetimes=times)
    table = table.append_column("note", pa.array(notes)).append_column("properties", pa.array(documents))
    pq.write_table(table, tmp_path / "records.parquet")
    return tmp_path / "records.parquet", kept


@pytest.mark.parametrize("way", ["library", "command", "graph"])
def test_no_planted_secret_comes_out(planted, tmp_path: Path, way: str, caplog, capfd, monkeypatch) -> None:
    source, kept = planted
    caplog.set_level(logging.DEBUG)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    work, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    if way == "graph":
        monkeypatch.setenv("DAGSTER_HOME", str(home))
    told = io.StringIO()
    options = {"enrich_cog": True, "secret_query": ["mine"]}
    if way == "library":
        ra.build(ra.CollectionSpec.of(path=str(source), name="t", workspace_dir=str(work), **options))
        with contextlib.suppress(ra.errors.RasteretAssetsError):
            ra.build(ra.CollectionSpec.of(path=f"{source}?sig={SECRETS[0]}", name="u", workspace_dir=str(work)))
    else:
        declaration = tmp_path / "collections" / "t.yaml"
        declaration.parent.mkdir()
        declaration.write_text(json.dumps({"path": str(source), "workspace_dir": str(work), **options}))
        for arguments in (
            ["validate"], ["build", "--dry-run"], ["build"], ["build", "--json", "--force"], ["status"], ["check"],
            ["failures", str(work / "t_records")], ["show", "t"], ["show", str(work / "t_records")],
            ["show", "t", "--json", "--stage", "raw_records"], ["show", "t", "--json", "--stage", "band_metadata"],
        ):  # fmt: skip
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, result.output
            told.write(result.output)
    if way != "library":
        assert "query parameters taken out of published addresses: " in told.getvalue()
    shown = {"output": told.getvalue() + "".join(capfd.readouterr()), "log": caplog.text}
    for file in sorted([*work.rglob("*"), *home.rglob("*")]):
        inside = file.relative_to(work if file.is_relative_to(work) else home).parts
        is_kept = len(inside) > 1 and inside[0].endswith("_stages") and inside[1] in KEEPING
        if is_kept:
            assert stat.S_IMODE(file.stat().st_mode) == (0o700 if file.is_dir() else 0o600), file
        elif file.is_file():
            text = file.read_bytes().decode(errors="replace")
            if file.suffix == ".parquet":
                text += str(pq.read_table(file, partitioning=None).to_pylist())
            shown["/".join(inside)] = text
    assert {place for place, text in shown.items() for secret in SECRETS if secret in text} == set()
    published = str(ra.load(work / "t_records").to_table().to_pylist())
    assert [parameter for parameter in kept if parameter not in published] == []
    if way == "graph":  # the metadata of each partition tells
        return
    assert caplog.text.count("query parameters of addresses") == (1 if way == "library" else 2)
    assert "mine" in caplog.text.partition("taken out as secrets: ")[2]
