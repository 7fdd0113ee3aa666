"""The command line: one command per file, imported when it is called."""

from __future__ import annotations

import click

from naflex_deploy import __version__
from naflex_deploy.cli.group import LazyGroup

COMMANDS = {
    "build": "Build a bundle from a checkpoint.",
    "plan": "Show what build would do, or tune budgets to images.",
    "calibrate": "Observe a model on real images, for int8 and fp8.",
    "look": "Show what the model sees of images, and why.",
    "embed": "Embed and classify images, documents and clips.",
    "search": "Find images and pages by words, in an output of embed.",
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
    "completion": "Print what a shell needs to complete commands.",
}
"""Each command and its summary, so that listing the commands imports none of them."""


def _print_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from platform import python_version

    from naflex_deploy.core.backends import installed

    click.echo(f"naflex-deploy {__version__}, Python {python_version()}")
    for backend, found in installed().items():
        click.echo(f"  {backend:18}{found or 'not installed'}")
    context.exit()


@click.group(
    "naflex-deploy",
    cls=LazyGroup,
    summaries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version, and those of the backends.",
)
def main() -> None:
    """Compile a NaFlex vision transformer once; run any mix of image sizes in one packed call.

    \b
    naflex-deploy build --profile doc-ocr --model demo   build a bundle from the demo checkpoint
    naflex-deploy embed build/doc-ocr IMAGE...           embed and classify images
    naflex-deploy COMMAND --help                         explain a command and its options

    Results go to stdout, progress to stderr. Exit codes: 0 ok, 1 internal, 2 usage or config, 3 accuracy gate,
    4 incompatible artifact or hardware, 5 benchmark gate, 6 done, but some inputs were rejected, 130 interrupted.
    """
