"""naflex-deploy build"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from naflex_deploy.cli.configuration import (
    DEMO,
    chosen_profile,
    model_options,
    model_or_demo,
    profile_options,
    resolve_options,
)
from naflex_deploy.cli.terminal import (
    describe_decisions,
    describe_witness,
    err,
    json_option,
    out,
    path_option,
    print_json,
    reports_errors,
    steps,
    wait_option,
)
from naflex_deploy.core.errors import UsageError, needs_extra
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.runtime.backends.openvino.backend import opportunity


@click.command()
@profile_options
@model_options
@path_option(
    "--labels",
    metavar="FILE",
    help="File with one class per line: NAME or NAME<TAB>TEXT. Default: the model's own classes.",
)
@click.option("--text", is_flag=True, help="Include the text tower in the bundle, for embed --text.")
@path_option("--calibration", metavar="FILE", help="File that `naflex-deploy calibrate` wrote; int8 and fp8 need it.")
@path_option("-o", "--output", metavar="DIR", help="Directory of the bundle. Default: build/PROFILE.")
@path_option(
    "--into", metavar="BUNDLE", help="Add the variant to this bundle of the same model, instead of writing a new one."
)
@click.option("--no-witness", is_flag=True, help="Do not compare the graph with the original model.")
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@wait_option
@json_option
@reports_errors
def command(
    profile: str | None,
    config: Path | None,
    settings: tuple[str, ...],
    backend: str | None,
    precision: str | None,
    target: str | None,
    model: str | None,
    patch_size: int | None,
    lora: Path | None,
    labels: Path | None,
    text: bool,
    calibration: Path | None,
    output: Path | None,
    into: Path | None,
    no_witness: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Build a bundle: read a checkpoint, export it, lower it, and measure it against its reference.

    \b
    naflex-deploy build --profile doc-ocr --model demo
    naflex-deploy build --profile photo --model hf:google/siglip2-base-patch16-naflex -o build/photo
    """
    if into is not None and (output is not None or force or text or no_witness):
        raise UsageError(
            "--into only adds a variant, so it cannot be used with --output, --force, --text or --no-witness",
            hint="leave these out; --into replaces a variant of the same name by itself",
        )
    chosen = chosen_profile(profile, model or DEMO, into)
    resolved = resolve_options(chosen, config, settings, backend, precision, target)
    path = into or output or Path("build") / resolved.profile.name
    source = model_or_demo(model)
    with needs_extra("build"):
        from naflex_deploy.compiler.pipeline import build_bundle
        from naflex_deploy.compiler.rebuild import build_into
    with steps() as report:
        options: dict[str, Any] = {
            "patch_size": patch_size,
            "lora": lora,
            "labels": labels,
            "calibration": calibration,
            "report": report,
        }
        if into is None:
            build_bundle(resolved, source, path, text=text, witness=not no_witness, force=force, **options)
        else:
            build_into(resolved, source, path, **options)
    manifest = Manifest.read(path)
    built = manifest.variants if into is None else manifest.variants[-1:]
    if as_json:
        print_json("build", bundle=str(path), manifest=manifest.model_dump(mode="json", by_alias=True))
        return
    size = sum(entry.size for entry in manifest.files.values()) / 1e6
    out.print(f"[bold green]built[/] {path}  ({size:.1f} MB, {built[-1].build['seconds']} s)")
    out.print(f"  model    {manifest.model.source}, {manifest.model.parameters / 1e6:.1f} M parameters")
    for variant in built:
        _print_variant(variant)
    out.print(f"  witness  {describe_witness(manifest.witness)}", markup=False)
    if note := opportunity():
        out.print(f"  note     {note}", markup=False)
    if built[0].gate.executed is None:
        out.print(f"  next     naflex-deploy verify {path}, on the machine where it will run")
    else:
        out.print(f"  next     naflex-deploy embed {path} IMAGE…")


def _print_variant(variant: Variant) -> None:
    out.print(f"  variant  {variant.name}, packs of up to {variant.budgets[-1]} tokens")
    if "warning" in variant.build:
        err.print(f"[bold yellow]warning:[/] {variant.build['warning']}")
    gate = variant.gate
    if gate.executed is None:
        out.print(f"  gate     {gate.status}: {gate.reason}")
        return
    out.print(
        f"  gate     {gate.status} on {gate.executed.gpu or gate.executed.cpu}: "
        f"cosine {gate.min_cosine:.6f}, largest error {gate.max_error:.1e} of the largest value"
    )
    if decisions := describe_decisions(gate):
        out.print(f"           {decisions}")
