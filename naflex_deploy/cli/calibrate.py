"""naflex-deploy calibrate"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from naflex_deploy.cli.configuration import DEMO, chosen_profile, model_options, model_or_demo, source_options
from naflex_deploy.cli.progress import Progress
from naflex_deploy.cli.terminal import (
    err,
    json_option,
    out,
    path_option,
    print_json,
    print_table,
    reports_errors,
    wait_option,
)
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError, needs_extra
from naflex_deploy.core.profile import Method

if TYPE_CHECKING:
    from naflex_deploy.compiler.quantize.calibration import Calibrated
    from naflex_deploy.compiler.quantize.sensitivity import Sensitivity

SHOWN = 5
"""Maximum number of rejected files that are printed; the JSON document lists all of them."""


@click.command()
@source_options
@model_options
@click.option(
    "--images",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Directory of images like those that will be embedded.",
)
@click.option(
    "--method",
    type=click.Choice(get_args(Method)),
    help="How ranges are computed from the observed values. Default: as in the profile, usually percentile.",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    metavar="N",
    help="Number of images to observe. Default: as in the profile, usually 256.",
)
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", default=0, show_default=True, help="Seed of the choice of images."
)
@path_option("--labels", metavar="FILE", help="CSV file of PATH,CLASS lines, so that the gate also measures accuracy.")
@click.option(
    "--sensitivity",
    is_flag=True,
    help="Measure the loss of each activation in int8, and keep in float those that need it.",
)
@path_option(
    "-o",
    "--output",
    metavar="FILE",
    default=Path("calibration.json"),
    show_default=True,
    help="Calibration file to write, for build --calibration.",
)
@click.option("--resume", is_flag=True, help="Continue a run that was interrupted.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@wait_option
@json_option
@reports_errors
def command(
    profile: str | None,
    config: Path | None,
    settings: tuple[str, ...],
    model: str | None,
    patch_size: int | None,
    lora: Path | None,
    images: Path,
    method: str | None,
    samples: int | None,
    seed: int,
    labels: Path | None,
    sensitivity: bool,
    output: Path,
    resume: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Observe a model on real images, so that build can quantise it for any target.

    \b
    naflex-deploy calibrate --profile photo --model hf:google/siglip2-base-patch16-naflex --images photos/

    A bad image is reported and replaced by another one; the exit code is then 6.
    """
    overrides = {"calibration.method": method, "calibration.samples": samples}
    resolved = resolve(chosen_profile(profile, model or DEMO), config=config, settings=settings, overrides=overrides)
    source = model_or_demo(model)
    with needs_extra("build"):
        from naflex_deploy.compiler.backends.onnxruntime.lowering import runner
        from naflex_deploy.compiler.quantize.calibration import calibrate
    with Progress("files") as progress:
        found = calibrate(
            resolved,
            source,
            images,
            output,
            seed=seed,
            labels=labels,
            patch_size=patch_size,
            lora=lora,
            sensitivity=runner if sensitivity else None,
            resume=resume,
            force=force,
            report=lambda step: err.print(step, markup=False),
            on_progress=lambda counts: progress.show("observing", counts),
        )
    if found.complete:
        err.print(f"{output} is complete already", markup=False)
        return
    _print(found, output, as_json)
    if found.rejected:
        sys.exit(ImageError.code)


def _print(found: Calibrated, output: Path, as_json: bool) -> None:
    for path, reason in found.rejected[:SHOWN]:
        err.print(f"rejected: {path}: {reason}", markup=False)
    if len(found.rejected) > SHOWN:
        err.print(f"rejected: {len(found.rejected) - SHOWN} more")
    for line in found.warnings:
        err.print(f"warning: {line}", markup=False)
    spec = found.spec
    if as_json:
        from naflex_deploy.compiler.quantize.ranges import asymmetric

        print_json(
            "calibrate",
            output=str(output),
            key=spec.key,
            method=spec.method,
            seed=spec.seed,
            coverage=spec.coverage,
            resumed=found.resumed,
            rejected=[{"path": path, "error": reason} for path, reason in found.rejected],
            warnings=found.warnings,
            sensitivity=found.sensitivity.to_json() if found.sensitivity else None,
            sites={
                names[0]: {"low": seen.low, "high": seen.high, "range": asymmetric(seen, spec.method)}
                for names, seen in spec.groups.items()
            },
        )
        return
    if found.sensitivity is not None:
        _print_costs(found.sensitivity)
    seen = spec.coverage
    tokens = seen["tokens"]
    out.print(f"[bold green]wrote[/] {output}  ({output.stat().st_size / 1e6:.1f} MB)")
    out.print(f"  sites    {len(spec.groups)} activations, ranges by {spec.method}")
    out.print(
        f"  images   {seen['files']} observed, {seen['gate_files']} held out for the gate; "
        f"{seen['smallest'][0]}x{seen['smallest'][1]} to {seen['largest'][0]}x{seen['largest'][1]} pixels"
    )
    out.print(
        f"  tokens   {tokens['least']} to {tokens['most']}, median {tokens['median']}; {seen['grids']} grids; "
        + ", ".join(f"budget {budget}: {images} images" for budget, images in seen["budgets"].items())
    )


def _print_costs(found: Sensitivity) -> None:
    """Print the loss of each part alone in int8, the worst first, and the activations that stay float."""
    print_table(
        "",
        ["in int8 alone", *(f"{measure} lost" for measure in found.costs[0].losses)],
        [[cost.name, *(f"{loss:.1e}" for loss in cost.losses.values())] for cost in found.costs],
    )
    out.print(f"  float    {', '.join(found.float_sites) or 'no activation has to stay float'}")
    if found.missed:
        err.print(f"warning: the gate is still missed: {'; '.join(found.missed)}", markup=False)
