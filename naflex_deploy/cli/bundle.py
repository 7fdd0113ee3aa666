"""naflex-deploy bundle"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from naflex_deploy.cli.configuration import engine_options, split_targets
from naflex_deploy.cli.group import SuggestingGroup
from naflex_deploy.cli.terminal import json_option, out, path_option, print_json, reports_errors, steps, wait_option
from naflex_deploy.core.errors import needs_extra
from naflex_deploy.core.profile import Profile


@click.group(cls=SuggestingGroup)
def command() -> None:
    """Rebuild a variant of a bundle, copy a bundle for the edge, or sign it.

    \b
    naflex-deploy bundle strip build/photo --variant onnxruntime-cpu-fp32 -o edge/photo
    """


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@engine_options
@path_option("--calibration", metavar="FILE", help="Calibration for int8 and fp8. Default: that in the bundle.")
@wait_option
@json_option
@reports_errors
def rebuild(
    bundle: Path,
    backend: str | None,
    precision: str | None,
    target: str | None,
    calibration: Path | None,
    as_json: bool,
) -> None:
    """Build a variant from the portable graph, on this machine.

    \b
    naflex-deploy bundle rebuild build/photo --backend tensorrt --precision bf16

    A variant of the same name is replaced.
    """
    with needs_extra("build"):
        from naflex_deploy.compiler import rebuild as rebuilding
    from naflex_deploy.runtime.bundle.bundle import Bundle

    values: dict[str, Any] = Bundle.open(bundle).manifest.config.model_dump(by_alias=True)
    engine = values["engine"]
    engine["backends"] = [backend] if backend else engine["backends"]
    engine["precision"] = precision or engine["precision"]
    engine["tensorrt"]["targets"] = split_targets(target) or engine["tensorrt"]["targets"]
    profile = Profile.parse(values, source=lambda path: f"{bundle} with these options")
    with steps() as report:
        variant = rebuilding.rebuild(bundle, profile, report, calibration=calibration)
    if as_json:
        print_json("bundle rebuild", bundle=str(bundle), variant=variant.model_dump(mode="json"))
    else:
        gate = " ".join(filter(None, (variant.gate.status, variant.gate.reason)))
        out.print(f"[bold green]built[/] {variant.name} into {bundle}; gate {gate}")


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--variant", required=True, metavar="NAME", help="Variant to keep, as `naflex-deploy inspect` names it.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Directory of the copy."
)
@click.option("--force", is_flag=True, help="Replace an existing bundle.")
@wait_option
@json_option
@reports_errors
def strip(bundle: Path, variant: str, output: Path, force: bool, as_json: bool) -> None:
    """Copy a bundle with a single variant, for edge machines.

    \b
    naflex-deploy bundle strip build/photo --variant onnxruntime-cpu-fp32 -o edge/photo

    The copy has no files that only a build needs.
    """
    from naflex_deploy.runtime.bundle import strip as stripping

    manifest = stripping.strip(bundle, variant, output, force=force)
    size = sum(entry.size for entry in manifest.files.values())
    if as_json:
        print_json("bundle strip", bundle=str(output), variant=variant, bytes=size, files=sorted(manifest.files))
    else:
        out.print(f"[bold green]wrote[/] {output}: {variant}, {len(manifest.files)} files, {size / 1e6:.1f} MB")


@command.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), metavar="FILE", help="EC private key in PEM.")
@wait_option
@json_option
@reports_errors
def sign(bundle: Path, key: Path, as_json: bool) -> None:
    """Sign a bundle with a private key.

    \b
    naflex-deploy bundle sign build/photo --key key.pem

    `naflex-deploy verify BUNDLE --signature PUBLIC_KEY` checks the signature.
    """
    from naflex_deploy.runtime.bundle import signature

    path = signature.sign(bundle, key)
    if as_json:
        print_json("bundle sign", bundle=str(bundle), signature=str(path))
    else:
        out.print(f"[bold green]signed[/] {bundle}: {path.name}")
