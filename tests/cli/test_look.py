"""`look` draws the pixels that the model gets, and tells every decision on the way to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from naflex_deploy.cli import main
from naflex_deploy.core.config import resolve
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.runtime.images.looking import pixels_of
from naflex_deploy.runtime.packing.prepare import Preparer
from tests.support.pdfs import pdf, rectangle

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)


def look(*arguments: object) -> tuple[int, dict[str, object]]:
    result = CliRunner().invoke(main, ["look", *map(str, arguments), "--json"])
    return result.exit_code, json.loads(result.stdout)


def test_the_picture_is_what_the_model_gets(tmp_path: Path) -> None:
    page = tmp_path / "a.tif"
    Image.fromarray(PIXELS).save(page, dpi=(200, 100))
    code, found = look(page, "-o", tmp_path / "seen", "--set", "image.tokens=64")
    assert code == 0
    (row,) = found["frames"]
    assert row["aspect"] == 0.5
    assert any(line.startswith("ratio: pixels are 0.5 times") for line in row["decisions"])
    assert row["decisions"][-1].startswith("resampling: resampled once to ")
    profile = resolve("photo", settings=["image.tokens=64"], environment={}).profile
    ((image,),) = Preparer(Preprocessing(patch_size=16), profile, "onnxruntime")(0, page)
    assert image.patches is not None
    expected = pixels_of(image.patches, 16)
    drawn = np.asarray(Image.open(tmp_path / "seen" / row["files"][0]).convert("RGB"))
    factor = drawn.shape[0] // expected.shape[0]
    inside = [16 * n + 8 for n in range(image.patches.grid_hw[0])]
    across = [16 * n + 8 for n in range(image.patches.grid_hw[1])]
    assert np.array_equal(drawn[::factor, ::factor][np.ix_(inside, across)], expected[np.ix_(inside, across)])


def test_tiles_are_drawn_and_bad_inputs_reported(tmp_path: Path) -> None:
    Image.fromarray(PIXELS.repeat(6, 0).repeat(6, 1)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    options = ["--set", "image.oversize=tiles", "--set", "image.tokens=256"]
    code, found = look(tmp_path, "-o", tmp_path / "seen", *options)
    assert code == 6
    good, bad = found["frames"]
    assert "expected" in bad["error"]
    assert good["tiles"] >= 4
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == sorted(good["files"])
    whole = np.asarray(Image.open(tmp_path / "seen" / good["files"][0]).convert("RGB"))
    assert (whole == [0, 90, 255]).all(-1).sum() > 200, "outlines of the tiles"


def test_a_line_a_frame_marks_what_is_doubtful(tmp_path: Path) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16)).save(tmp_path / "camera.png")
    result = CliRunner().invoke(main, ["look", str(tmp_path / "camera.png"), "-o", str(tmp_path / "seen")])
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    assert "16x16 stored" in line
    assert "! range: 0..65535: all of 16 bits; the frame uses only 0..255" in line


def test_the_scale_of_decoding_is_told(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    Image.fromarray(PIXELS).save(tmp_path / "b.png")
    _, found = look(tmp_path, "-o", tmp_path / "seen", "--set", "image.decode=scaled")
    told = [[line for line in row["decisions"] if line.startswith("reader: ")] for row in found["frames"]]
    assert [len(lines) for lines in told] == [1, 1]
    assert told[0][0] == "reader: decoded at the scale that its fit allows"
    assert told[1][0].startswith("reader: decoded in full")


def test_a_page_is_drawn_and_not_resampled(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf([rectangle(10, 10, 50, 50)]))
    code, found = look(tmp_path / "a.pdf", "-o", tmp_path / "seen")
    assert code == 0
    assert found["frames"][0]["decisions"][-1].startswith("resampling: none, drawn at ")
