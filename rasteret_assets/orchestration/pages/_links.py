"""Write where tables and files lie, as paths and, where a browser can open them, as links, with no secrets."""

from typing import Any, Final
from urllib.parse import quote

import dagster as dg
import pyarrow.compute as pc

from rasteret_assets.orchestration.graph_resources import S3Settings
from rasteret_assets.orchestration.pages.markdown import link, plain_text
from rasteret_assets.schema import HREF, ID
from rasteret_assets.secrets import redact
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.addresses.address import redacted_hrefs, redacted_texts
from rasteret_assets.storage.workspace import Workspace

#: Missing headers that are listed with their addresses.
_LISTED: Final = 20
_S3: Final = "https://s3.console.aws.amazon.com/s3/object/{bucket}?prefix={key}"
_GCS: Final = "https://console.cloud.google.com/storage/browser/_details/{bucket}/{key}"


def place_metadata(spec: CollectionSpec, path: str, settings: S3Settings) -> dict[str, dg.MetadataValue]:
    """Return the path of a table and, if its store has a web console, the page of the table there.

    Args:
        spec: of the collection.
        path: on the filesystem of the workspace.
        settings: that S3 is reached with.
    """
    uri = uri_of(spec, path)
    page = console_page(uri, settings)
    return {"path": dg.MetadataValue.path(uri), **({"console": dg.MetadataValue.url(page)} if page else {})}


def uri_of(spec: CollectionSpec, path: str) -> str:
    """Return a path on the workspace's filesystem as a path or URI that people write."""
    scheme, mark, _ = redact(spec.published_path or "").partition("://")
    return f"{scheme}://{path}" if mark else path


def console_page(uri: str, settings: S3Settings) -> str | None:
    """Return the page of an object in the web console of AWS or Google Cloud.

    None for other stores, and for local files, because browsers do not open them from a web page.

    Args:
        uri: of the object.
        settings: that S3 is reached with; an endpoint of its own means a store other than AWS.
    """
    scheme, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme in {"s3", "s3a"} and settings.is_public_aws:
        return _S3.format(bucket=quote(bucket), key=quote(key, safe=""))
    return _GCS.format(bucket=quote(bucket), key=quote(key)) if scheme in {"gs", "gcs"} else None


def missing_headers(workspace: Workspace, path: str) -> str:
    """Return Markdown with the first missing headers of a partition: record, band, address and reason.

    Args:
        workspace: of the collection.
        path: of the ledger.
    """
    lines: list[str] = []
    for batch in workspace.read_batches(path, [ID, "band", HREF, "error_class", "error"]):
        failed = batch.filter(pc.is_valid(batch.column("error_class"))).slice(0, _LISTED - len(lines))
        columns: dict[str, Any] = {name: failed.column(name) for name in failed.schema.names}
        columns |= {HREF: redacted_hrefs(columns[HREF]), "error": redacted_texts(columns["error"])}
        lines += map(_line, *(columns[name].to_pylist() for name in (ID, "band", HREF, "error")))
        if len(lines) == _LISTED:
            break
    return "\n".join(lines)


def _line(name: str, band: str, href: str | None, error: str | None) -> str:
    # Without the address in the error, because the line shows it as a link.
    reason = (error or "").removeprefix(f"{href}: ")
    where = f"{plain_text(name)}, {plain_text(band)}"
    return f"* {where}: {plain_text(reason)}" if href is None else f"* {where}: {link(href)} {plain_text(reason)}"
