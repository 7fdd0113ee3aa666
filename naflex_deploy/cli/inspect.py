"""naflex-deploy inspect"""

from __future__ import annotations

from pathlib import Path

import click

from naflex_deploy.cli.terminal import json_option, out, print_json, print_table, reports_errors
from naflex_deploy.runtime.bundle import Bundle


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@json_option
@reports_errors
def command(bundle: Path, as_json: bool) -> None:
    """Show what a bundle holds, and which of its variants this machine accepts."""
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    candidates = opened.candidates()
    if as_json:
        print_json(
            "inspect",
            manifest=manifest.model_dump(mode="json", by_alias=True),
            variants=[{"name": c.variant.name, "rejected": c.rejected} for c in candidates],
        )
        return
    model, image = manifest.model, manifest.config.image
    out.print(f"[bold]{bundle}[/]: {model.source}, {model.parameters / 1e6:.1f} M parameters, by {manifest.tool}")
    print_table("", ["option", "value"], [[key, value] for key, value in model.architecture.items()])
    out.print(f"profile {manifest.config.name}: {image.fit}, {image.tokens} tokens an image")
    if manifest.labels:
        out.print(
            f"{len(manifest.labels)} classes: {', '.join(manifest.labels[:12])}{'…' * (len(manifest.labels) > 12)}"
        )
    for title, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        print_table(title, ["name", "dtype", "shape"], [_row(spec) for spec in specs])
    print_table(
        "variants",
        ["name", "budgets", "gate", "here"],
        [
            [
                c.variant.name,
                c.variant.budgets,
                c.variant.gate.status,
                f"rejected: {c.rejected}" if c.rejected else "accepted",
            ]
            for c in candidates
        ],
    )
    print_table(
        "files", ["path", "MB"], [[name, f"{entry.size / 1e6:.2f}"] for name, entry in sorted(manifest.files.items())]
    )


def _row(spec: object) -> list[object]:
    return [
        getattr(spec, "role", None) or getattr(spec, "name", ""),
        getattr(spec, "dtype", ""),
        getattr(spec, "shape", ""),
    ]
