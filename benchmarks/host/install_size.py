"""Measures the size of `pip install naflex-deploy`, for a machine that only runs bundles, by Python and platform.

    python -m benchmarks.host.install_size [--python 3.11 3.12 3.13] [--platform x86_64 aarch64]

Builds the wheel, lets pip resolve its dependencies to wheels for each Python and platform, which need not be those of
this machine, and adds up their download and unpacked sizes. It fails if a dependency has no wheel for a platform.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")


def pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def build_wheel(folder: Path) -> Path:
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    return wheel


def resolve(wheel: Path, python: str, machine: str, folder: Path) -> list[Path]:
    """Download the wheels of the package and of all its dependencies."""
    platforms = [argument for tag in TAGS for argument in ("--platform", f"{tag}_{machine}")]
    pip("download", "--only-binary=:all:", "--python-version", python, *platforms, "--dest", str(folder), str(wheel))
    return sorted(folder.glob("*.whl"), key=lambda path: -path.stat().st_size)


def megabytes(wheel: Path) -> tuple[float, float]:
    """Size of a wheel in MB, as downloaded and unpacked."""
    with zipfile.ZipFile(wheel) as archive:
        return wheel.stat().st_size / 1e6, sum(entry.file_size for entry in archive.infolist()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=["3.11", "3.12", "3.13"])
    parser.add_argument("--platform", nargs="+", default=["x86_64", "aarch64"])
    arguments = parser.parse_args()
    print(
        "| Python | machine | wheels | MB to download | MB unpacked | of these, unpacked |\n|---|---|---|---|---|---|"
    )
    with TemporaryDirectory() as folder:
        wheel = build_wheel(Path(folder))
        for machine in arguments.platform:
            for python in arguments.python:
                found = resolve(wheel, python, machine, Path(folder) / f"{python}-{machine}")
                sizes = {path.name.partition("-")[0]: megabytes(path) for path in found}
                download, unpacked = (sum(size[kind] for size in sizes.values()) for kind in (0, 1))
                largest = sorted(sizes.items(), key=lambda item: -item[1][1])[:3]
                own = ("naflex_deploy", sizes["naflex_deploy"])
                parts = ", ".join(f"{name} {size[1]:.1f}" for name, size in [*largest, own])
                print(
                    f"| {python} | {machine} | {len(sizes)} | {download:.1f} | {unpacked:.1f} | {parts} |", flush=True
                )


if __name__ == "__main__":
    main()
