"""The command line: ``rasteret-assets demo`` and ``rasteret-assets discover``.

Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import click

# Dagster, matplotlib and the rest of the package take seconds to import: the commands import what they need
# themselves, so that --help and --version answer at once.
# ruff: noqa: PLC0415

P = ParamSpec("P")


def _in_one_line(command: Callable[P, None]) -> Callable[P, None]:
    """Errors that the package raises on purpose end a command with one line on stderr and exit code 1."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        from rasteret_assets.errors import RasteretAssetsError

        try:
            command(*args, **kwargs)
        except RasteretAssetsError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(1)

    return run


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rasteret-assets", prog_name="rasteret-assets")
def main() -> None:
    """Keep a Parquet index of cloud GeoTIFF headers right."""


@main.command()
@click.argument("directory", default="./rasteret_demo", type=click.Path(path_type=Path, file_okay=False))
@click.option("--force", is_flag=True, help="Write all files and read all headers again.")
@click.option("--serve", is_flag=True, help="Keep serving the files when all is done, until Ctrl+C.")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Port of the file server.  [default: that of the last run, else 8745]"
)
@_in_one_line
def demo(directory: Path, *, force: bool, serve: bool, port: int | None) -> None:
    """Make a small collection from nothing in DIRECTORY, and show how to open it.

    Writes twelve scenes of a made-up island as COGs (45 MB), serves them on this machine, materializes the Dagster
    graph over them, reads one area through the published collection and draws a picture. Run again, it fetches
    nothing.
    """
    from rasteret_assets.demo.run import run_demo

    run_demo(directory, force=force, port=port, serve=serve)


@main.command()
@click.option(
    "--collections",
    "folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of the YAML files with collections.  [default: $RASTERET_ASSETS_COLLECTIONS, else ./collections]",
)
@_in_one_line
def discover(folder: Path | None) -> None:
    """Register the partitions of all declared collections on the Dagster instance of DAGSTER_HOME."""
    import dagster as dg

    from rasteret_assets.orchestration.build import COLLECTIONS_VARIABLE, read_specs
    from rasteret_assets.orchestration.partitions import discover_partitions
    from rasteret_assets.orchestration.resources import FilesystemResource
    from rasteret_assets.stages.run import load_profile

    if not os.environ.get("DAGSTER_HOME"):
        raise click.UsageError("DAGSTER_HOME is not set: it names the folder of the Dagster instance")
    folder = folder or Path(os.environ.get(COLLECTIONS_VARIABLE) or "collections")
    if not folder.is_dir():
        raise click.UsageError(f"{folder} is no folder: name the one that declares the collections with --collections")
    filesystem = FilesystemResource()
    with dg.DagsterInstance.get() as instance:
        for spec in read_specs(folder):
            workspace = filesystem.open_workspace(spec)
            profile = load_profile(workspace, filesystem.open_source(spec), spec)
            keys = discover_partitions(instance, spec, profile, workspace.states())
            shown = [keys[0], "...", keys[-1]] if len(keys) > 3 else keys
            click.echo(f"{spec.name}: {len(keys)} partitions ({', '.join(shown)})")


if __name__ == "__main__":
    main()
