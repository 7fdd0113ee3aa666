"""naflex-deploy triton-server-repo"""

from __future__ import annotations

from pathlib import Path

import click

from naflex_deploy.cli.terminal import json_option, out, print_json, reports_errors, wait_option
from naflex_deploy.serving.triton_server.repository import write_repository


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The repository's directory."
)
@click.option("--variant", metavar="NAME", help="Use this variant of the bundle; it need not run on this machine.")
@click.option("--set", "settings", multiple=True, metavar="A.B=VALUE", help="Read images in another way. Repeatable.")
@click.option("--force", is_flag=True, help="Replace a repository that is there.")
@wait_option
@json_option
@reports_errors
def command(
    bundle: Path, output: Path, variant: str | None, settings: tuple[str, ...], force: bool, as_json: bool
) -> None:
    """Write a model repository for NVIDIA Triton Server: preprocessing, the engine, an ensemble of both.

    Its Python model needs naflex-deploy installed in the server's Python, without extras.
    """
    models = write_repository(bundle, output, variant=variant, settings=settings, force=force)
    if as_json:
        print_json("triton-server-repo", repository=str(output), models=models)
        return
    out.print(f"[bold green]wrote[/] {output}: {', '.join(models)}")
    out.print(f"  next     tritonserver --model-repository {output}")
