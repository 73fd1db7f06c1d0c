"""The command line, ``rasteret-assets``.

Results go to stdout, progress and errors to stderr; ``--json`` gives every result as one document. Exit codes: 0 for a
command that did its work, whatever it found; 1 for an error, and with ``--exit-code`` for something found; 2 for wrong
usage; 130 for an interrupted command. (As git has them: ``git diff`` ends with 0, ``git diff --exit-code`` with 1.)
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

#: Import path and summary of every command, by name, in the order in which the commands are used.
COMMANDS = {
    "demo": ("rasteret_assets.cli.cmd_demo:demo", "Build a small collection from made-up files."),
    "init": ("rasteret_assets.cli.cmd_init:init", "Write a declaration for a record table or a well-known dataset."),
    "validate": ("rasteret_assets.cli.cmd_validate:validate", "List the mistakes in declarations."),
    "harvest": ("rasteret_assets.cli.cmd_harvest:harvest", "Bring harvested STAC items up to date."),
    "build": ("rasteret_assets.cli.cmd_build:build", "Bring collections up to date, touching only what changed."),
    "status": ("rasteret_assets.cli.cmd_status:status", "Show what is published and what a build has to do."),
    "failures": ("rasteret_assets.cli.cmd_failures:failures", "List the headers that are missing, and what helps."),
    "check": ("rasteret_assets.cli.cmd_check:check", "Check published collections."),
    "show": ("rasteret_assets.cli.cmd_show:show", "Show a published collection, or rows of a table."),
    "export-gti": ("rasteret_assets.cli.cmd_export_gti:export_gti", "Write a tile index that GDAL and QGIS open."),
    "discover": ("rasteret_assets.cli.cmd_discover:discover", "Register partitions on the Dagster instance."),
    "schema": ("rasteret_assets.cli.cmd_schema:schema", "Print the JSON schema of declarations."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is used, as click's documentation has it ("Lazily Loading Subcommands").

    The list of commands is made of summaries that are given here, and imports no command.

    Args:
        lazy_commands: import path (``package.module:command``) and summary by name, in the order of the list.
    """

    def __init__(self, *args: Any, lazy_commands: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy_commands = lazy_commands

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, in the order of the list."""
        del ctx
        return list(self.lazy_commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command by its name; None for a name that no command has."""
        del ctx
        if cmd_name not in self.lazy_commands:
            return None
        module, _, name = self.lazy_commands[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self.lazy_commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that a shell may complete a word to."""
        found = [(name, summary) for name, (_, summary) in self.lazy_commands.items() if name.startswith(incomplete)]
        # Not the group's method, because it imports all commands.
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=summary) for name, summary in found), *options]


@click.group(cls=LazyGroup, lazy_commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rasteret-assets", prog_name="rasteret-assets")
def main() -> None:
    """Keep a Parquet index of cloud GeoTIFF headers right.

    Start with demo, or with init and build. A collection is declared in a YAML file; a record table lists its rasters.

    Exit codes: 0 for a command that did its work, whatever it found; 1 for an error, and with --exit-code where
    something was found; 2 for wrong usage. validate exits with 1 where a declaration has a mistake.
    """
