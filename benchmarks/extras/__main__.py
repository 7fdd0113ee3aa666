"""Install each extra that reads inputs alone, and read files with it: ``python -m benchmarks.extras [NAME…]``.

Two environments are made for each: one with the newest versions that pip finds, one with the lower bounds of
``pyproject.toml``, those of the base package included. In both, ``naflex-deploy look`` draws small files of its kinds,
and what it draws is compared with what this environment draws, which needs the extra ``dev``. The exit code is 1 where
an extra cannot be installed, a file cannot be read, or a picture differs by more than ``MOST`` levels on average.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
from packaging.requirements import Requirement
from PIL import Image

from benchmarks.extras.samples import SAMPLES, write_samples

ROOT = Path(__file__).parents[2]
MOST = 1.0
LOOK = ["--set", "image.range=frame", "--set", "image.frames=all", "--set", "video.rate=1000", "--json", "-o"]
BASE = "base"


def main(names: list[str]) -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        samples = write_samples(work)
        for name in names or SAMPLES:
            for bounds in ("newest", "lowest"):
                environment = work / f"{name}-{bounds}"
                try:
                    expected = _look(Path(sys.executable), samples[name], work / f"{name}-{bounds}-expected")
                    python = _install(environment, name, lowest=bounds == "lowest")
                    found = _look(python, samples[name], environment / "seen")
                    difference = _compare(found, expected)
                    line = f"{_drawn(found)} frames of {len(samples[name])} inputs, mean difference {difference:.2f}"
                    failed += difference > MOST
                    print(f"{name}, {bounds}: {line}; {_versions(python, name)}", flush=True)
                except (RuntimeError, ValueError) as error:
                    failed += 1
                    print(f"{name}, {bounds}: FAILED: {error}", flush=True)
                shutil.rmtree(environment, ignore_errors=True)
    return 1 if failed else 0


def requirements(name: str) -> list[Requirement]:
    """Those of the base package, and of an extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = project["optional-dependencies"][name] if name != BASE else []
    return [Requirement(line) for line in (*project["dependencies"], *own)]


def _install(environment: Path, name: str, *, lowest: bool) -> Path:
    _run(sys.executable, "-m", "venv", environment)
    python = environment / "bin" / "python"
    package = str(ROOT) if name == BASE else f"{ROOT}[{name}]"
    install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", package)
    # An extra that needs a later version than the base package says so, and comes after it.
    bounds = {item.name: _lower_bound(item) for item in requirements(name)} if lowest else {}
    _run(*install, *(f"{item}=={version}" for item, version in bounds.items()))
    return python


def _lower_bound(item: Requirement) -> str:
    (bound,) = (part.version for part in item.specifier if part.operator == ">=")
    return bound


def _look(python: Path, inputs: list[Path], output: Path) -> list[dict[str, Any]]:
    """The rows of ``naflex-deploy look``, each with the folder of its pictures.

    Raises:
        ValueError: An input was refused.
    """
    command = [str(python), "-m", "naflex_deploy", "look", *map(str, inputs), *LOOK, str(output)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=output.parent)
    try:
        rows = json.loads(done.stdout)["frames"]
    except json.JSONDecodeError:
        raise ValueError(done.stderr.decode(errors="replace")[-500:]) from None
    errors = [row["error"] for row in rows if row["error"]]
    if errors:
        raise ValueError("; ".join(errors))
    return [row | {"folder": output} for row in rows]


def _compare(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> float:
    """The largest of the mean differences between the pictures of two runs."""
    files, wanted = _files(found), _files(expected)
    if [file.name for file in files] != [file.name for file in wanted]:
        raise ValueError(f"expected {len(wanted)} pictures, found {len(files)}")
    pairs = ((_pixels(one), _pixels(two)) for one, two in zip(files, wanted, strict=True))
    return max(float(np.abs(one - two).mean()) for one, two in pairs)


def _files(rows: list[dict[str, Any]]) -> list[Path]:
    return [row["folder"] / name for row in rows for name in row["files"]]


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image, int)


def _drawn(rows: list[dict[str, Any]]) -> int:
    return sum(bool(row["files"]) for row in rows)


def _versions(python: Path, name: str) -> str:
    names = sorted({item.name for item in requirements(name)} - {item.name for item in requirements(BASE)})
    code = "import sys; from importlib.metadata import version as v; "
    code += "print(*(f'{name} {v(name)}' for name in sys.argv[1:]), sep=', ')"
    return _run(python, "-c", code, "pillow", "numpy", *names).strip()


def _run(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace")[-800:].strip())
    return done.stdout.decode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
