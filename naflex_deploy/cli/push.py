"""naflex-deploy push"""

from __future__ import annotations

from pathlib import Path

import click

from naflex_deploy.cli.terminal import json_option, out, print_json, reports_errors, steps


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("repository", metavar="ORG/NAME")
@click.option("--private", is_flag=True, help="Make the repository private, if it is new.")
@json_option
@reports_errors
def command(bundle: Path, repository: str, private: bool, as_json: bool) -> None:
    """Put a bundle on the Hugging Face hub, with a model card.

    \b
    naflex-deploy push build/photo my-team/photo

    Log in with `hf auth login` first, or set HF_TOKEN. What the repository held before stays in its history. Load the
    bundle with nd.load("hf:my-team/photo"), or copy it with `naflex-deploy pull`.
    """
    from naflex_deploy.runtime.hub.push import push
    from naflex_deploy.runtime.hub.repository import Repository

    target = Repository.parse(repository)
    with steps() as report:
        report(f"pushing {bundle} to {target}")
        commit = push(bundle, target, private=private)
    if as_json:
        print_json("push", bundle=str(bundle), repository=target.name, commit=commit)
    else:
        out.print(f"[bold green]pushed[/] {bundle} to {target}, commit {commit[:12]}")
