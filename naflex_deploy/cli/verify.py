"""naflex-deploy verify"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from naflex_deploy.cli.terminal import (
    describe_decisions,
    err,
    json_option,
    out,
    path_option,
    print_json,
    print_table,
    reports_errors,
    steps,
    wait_option,
)
from naflex_deploy.core.errors import GateError, IncompatibleError

if TYPE_CHECKING:
    from naflex_deploy.runtime.bundle.golden_images import PixelCheck


def print_pixels(pixels: PixelCheck | None) -> None:
    """What became of the golden images, and which libraries changed since the build."""
    if pixels is None:
        out.print("golden images: none in this bundle, which an earlier version built")
        return
    if not pixels.changed:
        out.print(f"golden images: {pixels.images} read, every patch equal to the bit")
        return
    out.print(f"golden images: {len(pixels.changed)} of {pixels.images} differ, by up to {pixels.worst} levels of 255")
    for name, difference in pixels.changed.items():
        out.print(f"  {name}: {difference}")
    for name, now in pixels.versions.items():
        before = pixels.made_with.get(name)
        if before != now:
            out.print(f"  {name} {now} here, {before or 'none'} at the build")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@path_option(
    "--signature",
    metavar="FILE",
    help="Public key in PEM; first check that its owner signed the bundle. Default: no check.",
)
@wait_option
@json_option
@reports_errors
def command(bundle: Path, signature: Path | None, as_json: bool) -> None:
    """Check a bundle on this machine: every digest, its golden images, and the accuracy of every engine.

    \b
    naflex-deploy verify build/photo
    naflex-deploy verify build/photo --signature public.pem

    It needs neither torch nor network. The exit code is 3 if an engine misses its gate or if images give other pixels
    than when the bundle was built, and 4 if no engine can run here.
    """
    from naflex_deploy.runtime.bundle.verify import verify

    with steps() as report:
        report(f"verifying {bundle}")
        verification = verify(bundle, signature)
    if as_json:
        print_json(
            "verify",
            passed=verification.passed,
            signed=signature is not None,
            gates={name: gate.model_dump() for name, gate in verification.gates.items()},
            pixels=asdict(verification.pixels) if verification.pixels else None,
            report=str(verification.report) if verification.report else None,
        )
    else:
        print_table(
            "",
            ["variant", "gate", "min cosine", "max error", "executed on", ""],
            [
                [
                    name,
                    gate.status,
                    "-" if gate.min_cosine is None else f"{gate.min_cosine:.6f}",
                    "-" if gate.max_error is None else f"{gate.max_error:.1e}",
                    gate.executed.cpu if gate.executed else "-",
                    gate.reason,
                ]
                for name, gate in verification.gates.items()
            ],
        )
        for name, gate in verification.gates.items():
            if decisions := describe_decisions(gate):
                out.print(f"{name}: {decisions}")
        print_pixels(verification.pixels)
        where = verification.report or "not written: the bundle is read-only"
        if signature is not None:
            out.print(f"signed with the key of {signature}")
        out.print(f"every file matches its digest; hardware report: {where}")
    failed = [name for name, gate in verification.gates.items() if gate.status == "failed"]
    if failed:
        err.print(f"[bold red]error:[/] {', '.join(failed)} missed the gate")
        sys.exit(GateError.code)
    if verification.pixels and not verification.pixels.passed:
        err.print("[bold red]error:[/] the image libraries of this machine give other pixels than those of the build")
        sys.exit(GateError.code)
    if not verification.passed:
        err.print("[bold red]error:[/] no variant can run on this machine")
        sys.exit(IncompatibleError.code)
