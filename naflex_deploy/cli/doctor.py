"""naflex-deploy doctor"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import click

from naflex_deploy import __version__
from naflex_deploy.cli.terminal import json_option, print_json, print_table, reports_errors
from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.errors import BundleError
from naflex_deploy.core.machine import cpu_flags, cpu_name, int8_warning, system_name
from naflex_deploy.runtime.backends import cuda_device, find
from naflex_deploy.runtime.backends.backend import Check
from naflex_deploy.runtime.bundle.bundle import Bundle, Candidate
from naflex_deploy.runtime.images.media.pdf_fonts import missing_scripts
from naflex_deploy.runtime.images.versions import pixel_versions

PACKAGE = "naflex-deploy"

WIDTH = 120
"""Columns of the table where it is not printed in a terminal; the list of an extra's packages alone takes 300."""

REQUIREMENT = re.compile(r"""([\w.-]+)[^;]*;.*\bextra == ["']([\w-]+)["']""")
"""Matches a requirement of an extra in the metadata of an installed package."""


@click.command()
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@json_option
@reports_errors
def command(bundle: Path | None, as_json: bool) -> None:
    """Show what this machine can run, and how to install what is missing.

    \b
    naflex-deploy doctor
    naflex-deploy doctor build/photo

    With BUNDLE, it also shows which of its variants are intact and run here.
    """
    rows = [*_system(), *_runtime(), *_pixels(), *_extras(), *(_variants(bundle) if bundle else [])]
    if as_json:
        print_json("doctor", checks=[dict(zip(("what", "found", "remedy"), row, strict=True)) for row in rows])
    else:
        print_table("", ["what", "found", "remedy"], [list(row) for row in rows], width=WIDTH)


def _system() -> list[Check]:
    flags = cpu_flags()
    gpu = cuda_device.find()
    return [
        (PACKAGE, __version__, ""),
        ("system", system_name(), ""),
        ("cpu", cpu_name(), ""),
        ("cpu instructions", " ".join(flags) or "unknown", int8_warning()),
        ("gpu", str(gpu), _gpu_remedy(gpu)),
    ]


def _gpu_remedy(gpu: cuda_device.Device | str) -> str:
    if isinstance(gpu, str):
        return "engines for TensorRT-RTX and GPU graphs for ONNX Runtime can be built here, but not run"
    return "this GPU has no bf16: use --precision fp16" if gpu.sm == "sm75" else ""


def _runtime() -> list[Check]:
    return [check for name in reversed(FOLDERS) for check in find(name).checks()]


def _pixels() -> list[Check]:
    """The versions of the libraries that decide pixels."""
    versions = ("pixels", ", ".join(f"{name} {number}" for name, number in pixel_versions().items()), "")
    if "pypdfium2" not in pixel_versions():
        return [versions]
    missing = missing_scripts()
    remedy = "install fonts of these scripts, such as the package fonts-noto-cjk" if missing else ""
    found = f"none for {', '.join(missing)}: PDF text without embedded fonts is refused" if missing else "present"
    return [versions, ("fonts for PDF", found, remedy)]


def _variants(path: Path) -> list[Check]:
    bundle = Bundle.open(path)
    return [(f"variant {one.variant.name}", *_variant(bundle, one)) for one in bundle.candidates()]


def _variant(bundle: Bundle, candidate: Candidate) -> tuple[str, str]:
    try:
        bundle.check(bundle.files_of(candidate.variant))
    except BundleError as error:
        return ("damaged", f"{error.message}; {error.hint}")
    return ("does not run here", candidate.rejected) if candidate.rejected else ("runs here", "")


def _extras() -> list[Check]:
    rows = []
    for extra, packages in extras().items():
        found = {package: _version(package) for package in packages}
        missing = [package for package, number in found.items() if number is None]
        present = ", ".join(f"{package} {number}" for package, number in found.items() if number)
        rows.append(
            (f"extra {extra}", present or "not installed", f"pip install 'naflex-deploy[{extra}]'" if missing else "")
        )
    return rows


def extras() -> dict[str, list[str]]:
    """The packages that each extra for users installs, without those of other extras that it includes."""
    found: dict[str, list[str]] = {}
    for match in filter(None, map(REQUIREMENT.match, requires(PACKAGE) or ())):
        package, extra = match.groups()
        if extra != "dev" and package != PACKAGE:
            found.setdefault(extra, []).append(package)
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
