"""The command line: one command per file, imported when it is called."""

from __future__ import annotations

from importlib import import_module

import click

from naflex_deploy import __version__

COMMANDS = (
    "build",
    "plan",
    "calibrate",
    "embed",
    "verify",
    "bench",
    "inspect",
    "profiles",
    "doctor",
    "bundle",
    "serve",
    "triton-server-repo",
)


class LazyGroup(click.Group):
    """Imports a command's module when that command is asked for, so that none pays for another's imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"naflex_deploy.cli.{cmd_name.replace('-', '_')}").command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="naflex-deploy")
def main() -> None:
    """Compile a NaFlex vision transformer once; run any mix of image sizes in one packed call.

    Results go to stdout, progress to stderr. Exit codes: 0 ok, 1 internal, 2 usage or config, 3 accuracy gate,
    4 incompatible artifact or hardware, 5 benchmark gate, 6 done, but some inputs were rejected.
    """
