"""``rasteret-assets demo``: a small collection of made-up files, built and read."""

from __future__ import annotations

from pathlib import Path

import click

from rasteret_assets.cli import library
from rasteret_assets.cli.common import in_one_line


@click.command()
@click.argument("directory", default="./rasteret_demo", type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Write all files and fetch all headers again.")
@click.option("--serve", is_flag=True, help="Keep serving the files at the end, until Ctrl+C.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of the file server.  [default: that of the last run, else 8745]"
)
@in_one_line
def demo(directory: Path, *, force: bool, serve: bool, port: int | None) -> None:
    """Build a small collection from made-up files.

    In DIRECTORY, writes twelve scenes of a made-up island as COGs (45 MB), serves them over HTTP on this machine,
    builds a collection of them with Dagster, reads an area of it, draws a picture and prints how to go on. A second run
    fetches nothing.
    """
    library.run_demo(directory, force=force, port=port, serve=serve)
