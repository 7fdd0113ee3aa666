"""naflex-deploy profiles"""

from __future__ import annotations

import click
import tomli_w

from naflex_deploy.cli.terminal import json_option, print_json, print_table, reports_errors
from naflex_deploy.core.config import builtin_profiles, resolve


@click.command()
@click.argument("name", required=False)
@json_option
@reports_errors
def command(name: str | None, as_json: bool) -> None:
    """List the built-in profiles, or print one in full as TOML, defaults included.

    \b
    naflex-deploy profiles
    naflex-deploy profiles doc-ocr
    """
    if name is None:
        known = {key: resolve(key).profile for key in builtin_profiles()}
        if as_json:
            print_json("profiles", profiles={key: profile.description for key, profile in known.items()})
            return
        print_table(
            "",
            ["profile", "tokens", "fit", "description"],
            [[key, p.image.tokens, p.image.fit, p.description] for key, p in known.items()],
        )
        return
    values = resolve(name).profile.model_dump(by_alias=True, exclude_none=True)
    if as_json:
        print_json("profiles", profile=values)
    else:
        click.echo(tomli_w.dumps(values), nl=False)
