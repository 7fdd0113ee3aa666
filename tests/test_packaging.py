"""The wheel and an editable install, each in its own environment with only the declared dependencies."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support.tiny import VARIANT, WIDTH, bundle

__all__ = ["bundle"]

ROOT = Path(__file__).parent.parent
BUILD = "import sys; from hatchling import build; print(getattr(build, sys.argv[1])(sys.argv[2]))"


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)


def make_wheel(hook: str, directory: Path) -> Path:
    done = run(sys.executable, "-c", BUILD, hook, directory, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return directory / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_wheel("build_wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=["build_wheel", "build_editable"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the package in it."""
    directory = tmp_path_factory.mktemp(request.param)
    package = make_wheel(request.param, directory)
    environment = directory / "environment"
    assert run(sys.executable, "-m", "venv", "--without-pip", environment).returncode == 0
    interpreter = environment / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", package]
    done = run(sys.executable, "-m", "pip", "--python", interpreter, *install)
    assert done.returncode == 0, done.stderr
    (site,) = environment.glob("lib/python*/site-packages")
    for dependency in requirements_of(declared(package)):
        link(dependency, site)
    return interpreter


def declared(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(name).decode().splitlines()
    return [line.partition(": ")[2] for line in lines if line.startswith("Requires-Dist: ")]


def requirements_of(lines: list[str]) -> dict[Distribution, None]:
    """Every distribution that a plain install brings, its own requirements included."""
    found: dict[str, Distribution] = {}
    open_lines = list(lines)
    while open_lines:
        requirement = Requirement(open_lines.pop())
        if requirement.name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found[requirement.name] = distribution(requirement.name)
            open_lines += found[requirement.name].requires or []
    return dict.fromkeys(found.values())


def link(dependency: Distribution, site: Path) -> None:
    """Put an installed distribution into another environment by links: nothing is downloaded or copied."""
    for top in {Path(file).parts[0] for file in dependency.files or []} - {"..", "__pycache__"}:
        target = site / top
        if not target.exists():
            target.symlink_to(Path(str(dependency.locate_file(top))))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert len(tops) == 2
    assert "naflex_deploy" in tops
    for folder in ("profiles", "plugins"):
        here = {f"naflex_deploy/{path.relative_to(ROOT)}" for path in (ROOT / folder).rglob("*") if path.is_file()}
        here = {name for name in here if "__pycache__" not in name}
        assert here
        assert here <= set(names)
    assert "naflex_deploy/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any("__pycache__" in name for name in names)


def test_a_plain_install_is_the_runtime_alone(wheel: Path) -> None:
    names = {dependency.name for dependency in requirements_of(declared(wheel))}
    assert {"numpy", "pillow", "onnxruntime", "click", "pydantic", "rich"} <= names
    assert not {"torch", "onnx", "onnxscript", "transformers", "timm", "polygraphy"} & names


def test_profiles_and_plugins_are_found(python: Path, tmp_path: Path) -> None:
    script = """
import json
from importlib.util import find_spec
from naflex_deploy.core.config import builtin_profiles, resolve
print(json.dumps([sorted(builtin_profiles()), resolve("photo").profile.name, find_spec("torch") is None]))
"""
    done = run(python, "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names, name, torch_is_absent = json.loads(done.stdout)
    assert names == sorted(path.stem for path in (ROOT / "profiles").glob("*.toml"))
    assert (name, torch_is_absent) == ("photo", True)


def test_a_bundle_runs_without_torch(python: Path, bundle: Path, tmp_path: Path) -> None:
    script = f"""
import numpy as np
import naflex_deploy as nd
engine = nd.load({str(bundle)!r})
print(engine.variant.name, engine.embed([np.zeros((20, 30, 3), np.uint8)]).shape)
"""
    done = run(python, "-c", script, cwd=tmp_path)
    assert (done.stdout, done.stderr) == (f"{VARIANT} (1, {WIDTH})\n", "")


def test_the_command_line_runs_without_torch(python: Path, tmp_path: Path) -> None:
    command = python.with_name("naflex-deploy")
    done = run(command, "profiles", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["profiles"]) == {path.stem for path in (ROOT / "profiles").glob("*.toml")}


def test_building_without_torch_names_the_extra(python: Path, tmp_path: Path) -> None:
    command = python.with_name("naflex-deploy")
    done = run(command, "build", "--profile", "photo", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'naflex-deploy[build]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
