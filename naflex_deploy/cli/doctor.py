"""naflex-deploy doctor"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import click

from naflex_deploy import __version__
from naflex_deploy.cli.terminal import json_option, print_json, print_table, reports_errors
from naflex_deploy.core.machine import cpu_flags, cpu_name, system_name
from naflex_deploy.runtime.sessions import cuda_device, tensorrt_compatibility, tensorrt_library

EXTRAS = {
    "build": ("torch", "onnx", "onnxscript", "onnx-graphsurgeon", "polygraphy", "safetensors", "huggingface-hub"),
    "tensorrt": ("tensorrt", "cuda-core"),
    "tensorrt-rtx": ("tensorrt-rtx", "cuda-core"),
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
    gpu = cuda_device.find()
    return [
        ("naflex-deploy", __version__, ""),
        ("system", system_name(), ""),
        ("cpu", cpu_name(), ""),
        ("cpu instructions", " ".join(flags) or "unknown", remedy if flags else ""),
        ("gpu", str(gpu), "engines for TensorRT-RTX can be built here, not run" if isinstance(gpu, str) else ""),
    ]


def _runtime() -> list[Row]:
    import onnxruntime

    providers = ", ".join(onnxruntime.get_available_providers())
    return [
        ("onnxruntime", f"{onnxruntime.__version__} ({providers})", ""),
        *(_tensorrt(backend) for backend in tensorrt_library.MODULES),
    ]


def _tensorrt(backend: str) -> Row:
    number, reason = tensorrt_library.installed(backend), tensorrt_compatibility.no_machine(backend)
    if number is None:
        return (backend, "not installed", f"pip install 'naflex-deploy[{backend}]'")
    return (backend, number, f"runs no engine here: {reason}" if reason else "")


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
