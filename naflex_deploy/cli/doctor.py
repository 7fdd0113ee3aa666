"""naflex-deploy doctor"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from naflex_deploy import __version__
from naflex_deploy.cli.terminal import json_option, print_json, print_table, reports_errors
from naflex_deploy.core.machine import cpu_flags, cpu_name, system_name

EXTRAS = {
    "build": ("torch", "onnx", "onnxscript", "onnx-graphsurgeon", "polygraphy", "safetensors", "huggingface-hub"),
    "tensorrt": ("tensorrt",),
    "tensorrt-rtx": ("tensorrt-rtx",),
}

Row = tuple[str, str, str]


@click.command()
@json_option
@reports_errors
def command(as_json: bool) -> None:
    """Show what this machine can do: versions, hardware, engines, and what to do about what is missing."""
    rows = [*_system(), *_runtime(), *_extras()]
    if as_json:
        print_json("doctor", checks=[dict(zip(("what", "found", "remedy"), row, strict=True)) for row in rows])
    else:
        print_table("", ["what", "found", "remedy"], [list(row) for row in rows])


def _system() -> list[Row]:
    flags = cpu_flags()
    remedy = (
        "" if any("vnni" in flag or "amx" in flag for flag in flags) else "no VNNI: int8 saturates and gains little"
    )
    gpu = "NVIDIA driver" if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi") else "none"
    return [
        ("naflex-deploy", __version__, ""),
        ("system", system_name(), ""),
        ("cpu", cpu_name(), ""),
        ("cpu instructions", " ".join(flags) or "unknown", remedy if flags else ""),
        ("gpu", gpu, ""),
    ]


def _runtime() -> list[Row]:
    import onnxruntime

    providers = ", ".join(onnxruntime.get_available_providers())
    return [("onnxruntime", f"{onnxruntime.__version__} ({providers})", "")]


def _extras() -> list[Row]:
    rows = []
    for extra, packages in EXTRAS.items():
        found = {package: _version(package) for package in packages}
        missing = [package for package, number in found.items() if number is None]
        present = ", ".join(f"{package} {number}" for package, number in found.items() if number)
        rows.append(
            (f"extra {extra}", present or "not installed", f"pip install 'naflex-deploy[{extra}]'" if missing else "")
        )
    return rows


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
