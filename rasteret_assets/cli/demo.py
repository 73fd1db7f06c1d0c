"""``rasteret-assets demo``: a small collection made from nothing."""

from __future__ import annotations

from pathlib import Path

import click

from rasteret_assets.cli.common import in_one_line

# ruff: noqa: PLC0415  (see common.py)


@click.command()
@click.argument("directory", default="./rasteret_demo", type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Write all files and read all headers again.")
@click.option("--serve", is_flag=True, help="Keep serving the files when all is done, until Ctrl+C.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of the file server.  [default: that of the last run, else 8745]"
)
@in_one_line
def demo(directory: Path, *, force: bool, serve: bool, port: int | None) -> None:
    """Make a small collection from nothing.

    In DIRECTORY: writes twelve scenes of a made-up island as COGs (45 MB), serves them on this machine, materializes
    the Dagster graph over them, reads one area through the published collection, draws a picture and prints how to open
    it. Run again, it fetches nothing.
    """
    from rasteret_assets.demo.run import run_demo

    run_demo(directory, force=force, port=port, serve=serve)
