"""naflex-deploy completion"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from naflex_deploy.cli.terminal import reports_errors

VARIABLE = "_NAFLEX_DEPLOY_COMPLETE"
"""By which a shell asks for completions; the name follows from that of the command."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@reports_errors
def command(context: click.Context, shell: str) -> None:
    """Print the script with which a shell completes commands, options and files.

    \b
    naflex-deploy completion bash > ~/.local/share/bash-completion/completions/naflex-deploy
    naflex-deploy completion zsh > "${fpath[1]}/_naflex-deploy"
    naflex-deploy completion fish > ~/.config/fish/completions/naflex-deploy.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    click.echo(kind(context.find_root().command, {}, "naflex-deploy", VARIABLE).source())
