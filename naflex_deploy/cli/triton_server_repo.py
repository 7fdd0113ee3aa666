"""naflex-deploy triton-server-repo"""

from __future__ import annotations

from pathlib import Path

import click

from naflex_deploy.cli.terminal import json_option, out, print_json, reports_errors, wait_option
from naflex_deploy.serving.triton_server.repository import write_repository


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Directory of the repository."
)
@click.option(
    "--variant",
    metavar="NAME",
    help="Use this variant, which need not run here. Default: the first for ONNX Runtime or TensorRT.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="A.B=VALUE",
    help="Change how images are read, for example image.oversize=shrink. Repeatable.",
)
@click.option(
    "--python",
    is_flag=True,
    help="Run the bundle in the Python backend, for servers without one for ONNX Runtime or TensorRT.",
)
@click.option("--force", is_flag=True, help="Replace an existing repository.")
@wait_option
@json_option
@reports_errors
def command(
    bundle: Path,
    output: Path,
    variant: str | None,
    settings: tuple[str, ...],
    python: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write a model repository for NVIDIA Triton Server: preprocessing, the engine, and an ensemble of both.

    \b
    naflex-deploy triton-server-repo build/photo -o models

    The repository's Python model needs naflex-deploy in the server's Python. With --python it is the only model, and
    needs the extra of its engine, if that is not ONNX Runtime.
    """
    models = write_repository(bundle, output, variant=variant, settings=settings, python=python, force=force)
    if as_json:
        print_json("triton-server-repo", repository=str(output), models=models)
        return
    out.print(f"[bold green]wrote[/] {output}: {', '.join(models)}")
    out.print(f"  next     tritonserver --model-repository {output}")
