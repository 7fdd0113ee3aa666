"""The command `calibrate`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from naflex_deploy.compiler.quantize import ranges
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.demo.draw import draw_page
from tests.cli.conftest import Run

OPTIONS = [
    *("--set", "image.tokens=36", "--set", "engine.onnxruntime.budgets=[72]"),
    *("--method", "entropy", "--sensitivity"),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four pieces of a page, and a file that is not an image."""
    folder = tmp_path_factory.mktemp("pages") / "images"
    folder.mkdir()
    page = draw_page(3, "form").image.resize((300, 300))
    rng = np.random.default_rng(0)
    for number in range(24):
        width, height = (int(side) for side in rng.integers(40, 300, 2))
        page.crop((0, 0, width, height)).save(folder / f"{number:02}.png")
    (folder / "[broken].png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def calibrated(run: Run, checkpoint: Path, pages: Path) -> tuple[Path, dict[str, object]]:
    """The file and the JSON document of a run."""
    output = pages.parent / "calibration.json"
    call = ["calibrate", "--profile", "photo", "--model", checkpoint, *OPTIONS, "--images", pages, "-o", output]
    result = run(*call, "--json")
    assert result.exit_code == 6, result.output
    assert "rejected: [broken].png: " in result.stderr
    return output, json.loads(result.stdout)


def test_the_document_says_what_was_observed(calibrated: tuple[Path, dict[str, object]]) -> None:
    output, document = calibrated
    spec = QuantSpec.read(output)
    assert (document["schema"], document["command"]) == (1, "calibrate")
    assert (document["key"], document["method"], document["coverage"]) == (spec.key, "entropy", spec.coverage)
    (rejected,) = document["rejected"]  # type: ignore[misc]
    assert rejected["path"] == "[broken].png"
    assert document["warnings"] == ["asked for 256 images, found 19"]
    sites = document["sites"]
    assert isinstance(sites, dict)
    low, high = sites["blocks.0.mlp.fc2.input"]["range"]
    assert (low, high) == ranges.asymmetric(spec.sites["blocks.0.mlp.fc2.input"], "entropy")
    assert "blocks.0.query.input" in sites
    assert "blocks.0.key.input" not in sites


def test_what_each_site_costs_lies_beside_it(calibrated: tuple[Path, dict[str, object]]) -> None:
    output, document = calibrated
    found = json.loads(output.with_name("calibration-sensitivity.json").read_text())
    assert found == document["sensitivity"]
    assert "blocks.0.mlp.fc2.input" in [cost["name"] for cost in found["costs"]]
    assert found["float_sites"] == list(QuantSpec.read(output).float_sites)
    assert "<svg" in output.with_name("calibration-sensitivity.svg").read_text()


def test_a_run_that_is_complete_has_nothing_to_resume_and_is_not_replaced(
    run: Run, checkpoint: Path, pages: Path, calibrated: tuple[Path, dict[str, object]]
) -> None:
    output, _ = calibrated
    before = output.read_bytes()
    call = ["calibrate", "--profile", "photo", "--model", checkpoint, *OPTIONS, "--images", pages, "-o", output]
    resumed = run(*call, "--resume")
    assert (resumed.exit_code, resumed.stdout) == (0, "")
    assert "is complete already" in resumed.stderr
    other = run(*call, "--resume", "--seed", 1)
    assert (other.exit_code, "was made with something else: seed" in other.stderr) == (2, True)
    refused = run(*call)
    assert refused.exit_code == 2
    assert "exists already" in refused.stderr
    assert output.read_bytes() == before


def test_too_few_images_are_refused_before_the_model_is_read(run: Run, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    output = tmp_path / "out.json"
    result = run("calibrate", "--profile", "photo", "--model", "none", "--images", tmp_path, "-o", output)
    assert result.exit_code == 2
    assert "expected at least 20 different images" in result.stderr
    assert "hint:" in result.stderr
    assert not output.exists()
