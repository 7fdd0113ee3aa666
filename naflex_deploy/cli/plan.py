"""naflex-deploy plan"""

from __future__ import annotations

from pathlib import Path

import click

from naflex_deploy.cli.configuration import profile_options, resolve_options
from naflex_deploy.cli.terminal import json_option, out, print_json, print_table, reports_errors
from naflex_deploy.core.errors import MissingExtraError


@click.command()
@profile_options
@click.option("--model", metavar="SPEC", help="As for build: adds weights, parameters and memory.")
@json_option
@reports_errors
def command(
    profile: str,
    config: Path | None,
    settings: tuple[str, ...],
    backend: str | None,
    precision: str | None,
    target: str | None,
    model: str | None,
    as_json: bool,
) -> None:
    """Show what build would do: tokens, budgets, variants, memory, and where each value comes from."""
    resolved = resolve_options(profile, config, settings, backend, precision, target)
    try:
        from naflex_deploy.build.planning import plan
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "torch", "build") from None
    planned = plan(resolved, model)
    if as_json:
        print_json("plan", **planned.to_json(), origins=resolved.origins)
        return
    out.print(f"[bold]{resolved.profile.name}[/]: {resolved.profile.description}")
    out.print(f"backend {planned.backend}, precision {planned.precision}, outputs {', '.join(planned.outputs)}")
    out.print(f"images: {resolved.profile.image.fit}, at most {planned.image_tokens} tokens each")
    print_table(
        "",
        ["pack budget", "images that fill it", "attention", "memory"],
        [
            [
                f"{b.tokens} tokens",
                f"{b.full_images} of {planned.image_tokens} tokens",
                b.attention,
                _megabytes(b.memory_bytes),
            ]
            for b in planned.budgets
        ],
    )
    if planned.weights_bytes is None:
        out.print("memory is unknown without --model")
    else:
        out.print(f"weights {_megabytes(planned.weights_bytes)}; memory is weights and estimated activations")
    print_table(
        "",
        ["page scanned at 300 dpi", "images", "tokens", "seen at"],
        [[p.paper, p.images, p.tokens, f"{p.dpi} dpi" if p.images else "refused"] for p in planned.pages],
    )
    coarse = [page.paper for page in planned.pages if page.images and not page.readable]
    if coarse:
        out.print(
            f"[bold yellow]warning:[/] {', '.join(coarse)}: below 100 dpi small print cannot be read; "
            'for text, image.oversize = "tiles"'
        )
    limit = resolved.profile.engine.memory_limit
    if limit and any((b.memory_bytes or 0) > limit for b in planned.budgets):
        out.print(f"[bold yellow]warning:[/] above engine.memory_limit = {_megabytes(limit)}")
    print_table("", ["value", "from"], [[key, origin] for key, origin in resolved.origins.items()])


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:,.0f} MB"
