"""The command line, ``rasteret-assets``.

Results go to stdout, progress and errors to stderr; ``--json`` gives every result as one document. Exit codes: 0 done,
1 failed (an error, a failed check), 2 wrong usage.
"""

from __future__ import annotations

import click

from rasteret_assets.cli.build import build, discover, plan, status
from rasteret_assets.cli.check import check
from rasteret_assets.cli.demo import demo
from rasteret_assets.cli.failures import failures
from rasteret_assets.cli.info import info
from rasteret_assets.cli.init import init
from rasteret_assets.cli.show import show


class _InOrder(click.Group):
    """A group that lists its commands in the order in which they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rasteret-assets", prog_name="rasteret-assets")
def main() -> None:
    """Keep a Parquet index of cloud GeoTIFF headers right."""


for _command in (demo, init, plan, build, status, failures, check, info, show, discover):
    main.add_command(_command)
