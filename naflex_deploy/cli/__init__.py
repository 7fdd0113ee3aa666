"""The command line: one command per file, imported when it is called."""

from __future__ import annotations

from importlib import import_module

import click

from naflex_deploy import __version__

COMMANDS = {
    "build": "Checkpoint in, bundle out.",
    "plan": "What build would do; --tune fits budgets to your images.",
    "calibrate": "Real images in, what int8 needs to know of them out.",
    "embed": "Images in, vectors and classes out.",
    "verify": "Check digests and accuracy on this machine.",
    "bench": "Latency, throughput, latency against load, comparisons.",
    "inspect": "What a bundle or a checkpoint holds.",
    "profiles": "The built-in profiles, or one in full.",
    "doctor": "What this machine has, lacks, and how to get it.",
    "bundle": "Make a variant again, copy it for the edge, sign it.",
    "serve": "A bundle over HTTP.",
    "triton-server-repo": "A model repository for NVIDIA Triton Server.",
}
"""Each command, and what it does in a line: the list of them needs none imported."""


class LazyGroup(click.Group):
    """Imports a command's module when that command is asked for, so that none pays for another's imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"naflex_deploy.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="naflex-deploy")
def main() -> None:
    """Compile a NaFlex vision transformer once; run any mix of image sizes in one packed call.

    \b
    naflex-deploy build --profile doc-ocr --model demo   a bundle from the demo checkpoint
    naflex-deploy embed build/doc-ocr IMAGE...           vectors and classes of images
    naflex-deploy COMMAND --help                         what a command takes

    Results go to stdout, progress to stderr. Exit codes: 0 ok, 1 internal, 2 usage or config, 3 accuracy gate,
    4 incompatible artifact or hardware, 5 benchmark gate, 6 done, but some inputs were rejected.
    """
