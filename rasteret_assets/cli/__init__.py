"""The command line, ``rasteret-assets``.

Results go to stdout, progress and errors to stderr; ``--json`` gives every result as one document. Exit codes: 0 for a
command that did its work, whatever it found; 1 for an error, and with ``--exit-code`` for something found; 2 for wrong
usage; 130 where it was interrupted. (As git has them: ``git diff`` ends with 0, ``git diff --exit-code`` with 1.)
"""

from __future__ import annotations

import click

from rasteret_assets.cli.build import build
from rasteret_assets.cli.check import check
from rasteret_assets.cli.demo import demo
from rasteret_assets.cli.export_gti import export_gti
from rasteret_assets.cli.failures import failures
from rasteret_assets.cli.harvest import harvest
from rasteret_assets.cli.init import init
from rasteret_assets.cli.show import show
from rasteret_assets.cli.status import discover, status
from rasteret_assets.cli.validate import schema, validate


class _InOrder(click.Group):
    """A group that lists its commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rasteret-assets", prog_name="rasteret-assets")
def main() -> None:
    """Keep a Parquet index of cloud GeoTIFF headers right.

    Exit codes: 0 for a command that did its work, whatever it found; 1 for an error, and with --exit-code where
    something was found; 2 for wrong usage. validate exits with 1 where a declaration has a mistake.
    """


for _command in (demo, init, validate, harvest, build, status, failures, check, show, export_gti, discover, schema):
    main.add_command(_command)
