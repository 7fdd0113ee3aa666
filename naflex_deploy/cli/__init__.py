"""The command line: one command per file, imported when it is called."""

from __future__ import annotations

import gc
from importlib import import_module

import click

from naflex_deploy import __version__

COMMANDS = {
    "build": "Build a bundle from a checkpoint.",
    "plan": "Show what build would do, or tune budgets to images.",
    "calibrate": "Observe a model on real images, for int8 and fp8.",
    "look": "Show what the model sees of images, and why.",
    "embed": "Embed and classify images, documents and clips.",
    "verify": "Check digests and accuracy on this machine.",
    "bench": "Measure latency and throughput, or compare bundles.",
    "inspect": "Show what a bundle or a checkpoint holds.",
    "profiles": "List the built-in profiles, or print one in full.",
    "doctor": "Show what this machine can run, and what it lacks.",
    "bundle": "Rebuild, strip or sign a bundle.",
    "push": "Put a bundle on the Hugging Face hub.",
    "pull": "Copy a bundle from the Hugging Face hub.",
    "serve": "Serve bundles over HTTP.",
    "triton-server-repo": "Write a model repository for NVIDIA Triton Server.",
}
"""Each command and its summary, so that listing the commands imports none of them."""


class LazyGroup(click.Group):
    """Imports the module of a command only when it is called, so that no command pays for another's imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        # Nothing of what an import makes is garbage, and looking through it takes a tenth of the time of importing.
        gc.disable()
        try:
            command: click.Command = import_module(f"naflex_deploy.cli.{cmd_name.replace('-', '_')}").command
        finally:
            gc.freeze()
            gc.enable()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="naflex-deploy")
def main() -> None:
    """Compile a NaFlex vision transformer once; run any mix of image sizes in one packed call.

    \b
    naflex-deploy build --profile doc-ocr --model demo   build a bundle from the demo checkpoint
    naflex-deploy embed build/doc-ocr IMAGE...           embed and classify images
    naflex-deploy COMMAND --help                         explain a command and its options

    Results go to stdout, progress to stderr. Exit codes: 0 ok, 1 internal, 2 usage or config, 3 accuracy gate,
    4 incompatible artifact or hardware, 5 benchmark gate, 6 done, but some inputs were rejected.
    """
