"""naflex-deploy pull"""

from __future__ import annotations

from pathlib import Path

import click

from naflex_deploy.cli.terminal import json_option, out, path_option, print_json, reports_errors, steps, wait_option


@click.command()
@click.argument("repository", metavar="ORG/NAME[@REVISION]")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Directory of the bundle."
)
@path_option(
    "--signature", metavar="FILE", help="Public key in PEM; its owner must have signed the bundle. Default: no check."
)
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@wait_option
@json_option
@reports_errors
def command(repository: str, output: Path, signature: Path | None, force: bool, as_json: bool) -> None:
    """Copy a bundle from the Hugging Face hub, and check its files.

    \b
    naflex-deploy pull my-team/photo@v1 -o build/photo
    """
    from naflex_deploy.runtime.hub.pull import pull
    from naflex_deploy.runtime.hub.repository import Repository

    source = Repository.parse(repository)
    with steps() as report:
        report(f"pulling {source}")
        bundle = pull(source, output, public_key=signature, force=force)
    variants = [variant.name for variant in bundle.manifest.variants]
    if as_json:
        print_json("pull", bundle=str(output), repository=source.name, variants=variants)
    else:
        out.print(f"[bold green]pulled[/] {source} to {output}: {', '.join(variants)}")
