"""naflex-deploy profiles"""

from __future__ import annotations

import json

import click
import tomli_w

from naflex_deploy.cli.terminal import json_option, print_json, print_table, reports_errors
from naflex_deploy.core.config import builtin_profiles, resolve
from naflex_deploy.core.profile.schema import profile_schema


@click.command()
@click.argument("name", required=False)
@click.option("--schema", "as_schema", is_flag=True, help="Print the JSON Schema of profiles, for editors of TOML.")
@json_option
@reports_errors
def command(name: str | None, as_schema: bool, as_json: bool) -> None:
    """List the built-in profiles, or print one in full as TOML, defaults included.

    \b
    naflex-deploy profiles
    naflex-deploy profiles doc-ocr
    naflex-deploy profiles --schema > profile.schema.json

    With `#:schema profile.schema.json` as the first line of a profile, editors complete and check it.
    """
    if as_schema:
        click.echo(json.dumps(profile_schema(), indent=2))
        return
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
