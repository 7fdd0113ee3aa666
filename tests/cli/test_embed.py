"""``naflex-deploy embed``: what it writes, what it refuses, and what survives an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from transformers import Siglip2ForImageClassification

import naflex_deploy
from naflex_deploy.cli import embed as embed_module
from naflex_deploy.runtime.images.decode import decode
from naflex_deploy.runtime.images.fit import apply_fit, plan_fit
from naflex_deploy.runtime.images.patchify import patchify
from naflex_deploy.runtime.results import journal as journal_module
from tests.cli.conftest import Run

ORDER = ["a.png", "b.jpg", "c.bmp", "deeper/d.webp", "e.tiff", "e.tiff"]


def test_classes_are_those_of_the_real_model(run: Run, bundle: Path, checkpoint: Path, images: Path) -> None:
    result = run("embed", bundle, images / "a.png", images / "b.jpg", "-o", images / "out.jsonl")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (images / "out.jsonl").read_text().splitlines()]
    model = Siglip2ForImageClassification.from_pretrained(checkpoint).eval()
    for row in rows:
        image = next(decode(row["path"]))
        fit = plan_fit((image.height, image.width), patch_size=16, tokens=256)
        pixels = torch.from_numpy(patchify(apply_fit(image, fit), 16).pixels.astype(np.float32)) / 127.5 - 1
        with torch.no_grad():
            output = model(
                pixel_values=pixels[None],
                pixel_attention_mask=torch.ones(1, len(pixels), dtype=torch.int64),
                spatial_shapes=torch.tensor([fit.grid_hw]),
            )
        probabilities = output.logits.softmax(-1)[0]
        best = int(probabilities.argmax())
        assert row["label"] == model.config.id2label[best]
        assert row["score"] == pytest.approx(float(probabilities[best]), abs=1e-5)


@pytest.mark.parametrize("suffix", [".npz", ".jsonl", ".parquet"])
def test_rows_are_in_input_order_and_equal_the_python_api(run: Run, bundle: Path, images: Path, suffix: str) -> None:
    output = images.parent / f"out{suffix}"
    result = run("embed", bundle, images, "-o", output)
    assert result.exit_code == 0, result.output
    expected = naflex_deploy.load(bundle).embed(dict.fromkeys(images / name for name in ORDER))
    if suffix == ".npz":
        with np.load(output) as arrays:
            paths, vectors = arrays["path"].tolist(), arrays["embedding"]
            assert arrays["frame"].tolist() == [0, 0, 0, 0, 0, 1]
    else:
        lines = output.read_text().splitlines() if suffix == ".jsonl" else []
        rows = [json.loads(line) for line in lines] or parquet.read_table(output).to_pylist()
        paths, vectors = [row["path"] for row in rows], np.array([row["embedding"] for row in rows])
    assert [str(Path(path).relative_to(images)) for path in paths] == ORDER
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert not list(images.parent.glob(".*")), "the journal is gone"


def test_tiles_are_rows_and_their_tokens_one_grid(run: Run, pages_bundle: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    page, small = tmp_path / "page.png", tmp_path / "small.png"
    Image.fromarray(rng.integers(0, 256, (320, 240, 3), dtype=np.uint8)).save(page)
    Image.fromarray(rng.integers(0, 256, (64, 48, 3), dtype=np.uint8)).save(small)
    output, folder = tmp_path / "out.jsonl", tmp_path / "tokens"
    result = run("embed", pages_bundle, page, small, "-o", output, "--tokens", folder)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    engine = naflex_deploy.load(pages_bundle)
    found = sorted(engine.stream([page, small], ("pooled", "tokens")), key=lambda result: (result.input, result.tile))
    assert len(rows) == len(found) > 6
    for row, expected in zip(rows, found, strict=True):
        assert (row["path"], row["tile"], row["tiles"]) == (expected.name, expected.tile, expected.tiles)
        assert [row[side] for side in ("left", "top", "right", "bottom")] == list(expected.box)
        assert (row["width"], row["height"]) == expected.size
        np.testing.assert_allclose(row["embedding"], expected.outputs["pooled"], atol=1e-5)
    for path, expected in zip((page, small), engine.tokens([page, small]), strict=True):
        (name,) = {row["tokens"] for row in rows if row["path"] == str(path)}
        np.testing.assert_allclose(np.load(folder / name), expected, atol=1e-5)
    assert engine.tokens([page])[0].shape[:2] == (20, 15)
    _, *tiles = found[:-1]
    corner = next(tile for tile in tiles if tile.box[:2] == (0, 0))
    assert np.array_equal(engine.tokens([page])[0][0, 0], corner.outputs["tokens"][0, 0])
    assert f" + {len(tiles)} x " in result.stdout
    assert run("embed", pages_bundle, page, "--tokens", folder).exit_code == 2


def test_a_page_of_which_a_tile_is_missing_is_done_again(run: Run, pages_bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (320, 240, 3), dtype=np.uint8)).save(page)
    output = tmp_path / "out.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_module.Journal, "finish", lambda self, order, provenance: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("embed", pages_bundle, page, "-o", output)
    lines = tmp_path / ".out.npz.journal" / "rows.jsonl"
    recorded = lines.read_bytes().splitlines(keepends=True)
    lines.write_bytes(b"".join(recorded[:-1]) + recorded[-1][:20])
    assert run("embed", pages_bundle, page, "-o", output, "--resume").exit_code == 0
    with np.load(output) as arrays:
        assert arrays["tile"].tolist() == list(range(len(recorded)))


def test_the_summary_names_what_is_not_in_the_table(
    run: Run, bundle: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "drawing.svg").write_text("<svg/>")
    (images / "deeper" / "notes.txt").write_text("none")
    (images / "bad.jpg").write_text("this is no picture")
    monkeypatch.setattr(embed_module, "SHOWN", 2)
    lines = run("embed", bundle, images).stdout.splitlines()
    assert lines[3] == "… and 4 more: -o FILE writes all"
    assert lines[4].startswith("6 images from 6 files; 1 rejected; 2 of no known suffix or without pixels left out; ")
    document = json.loads(run("embed", bundle, images, "--json").stdout)
    assert (document["left_out_files"], document["frames_not_shown"], len(document["rows"])) == (2, 4, 2)
    (line,) = run("embed", bundle, images / "bad.jpg").stdout.splitlines()
    assert line.startswith("0 images from 1 file; 1 rejected; ")


def test_a_bad_image_loses_no_other(run: Run, bundle: Path, images: Path) -> None:
    (images / "bad.jpg").write_text("this is no picture")
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:200])
    result = run("embed", bundle, images, "-o", images / "out.npz", "--json")
    assert result.exit_code == 6
    document = json.loads(result.stdout)
    assert document["images"] == 6
    assert sorted(Path(item["path"]).name for item in document["rejected"]) == ["bad.jpg", "cut.png"]
    assert "found data that starts with" in result.stderr
    with np.load(images / "out.npz") as arrays:
        assert len(arrays["embedding"]) == 6


def test_the_table_shows_labels_as_they_are(run: Run, bundle: Path, images: Path) -> None:
    result = run("embed", bundle, images)
    assert result.exit_code == 0
    assert "30x20" in result.stdout
    assert any(name in result.stdout for name in ("cat", "dog", "[owl]"))
    assert "5 files" in result.stdout


def test_refusals(run: Run, bundle: Path, images: Path, tmp_path: Path) -> None:
    existing = tmp_path / "there.npz"
    existing.write_bytes(b"precious")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, code, message in (
        ((bundle, images, "-o", existing), 2, "exists already"),
        ((bundle, images, "-o", tmp_path / "out.nothing"), 2, "expected a name that ends in .npz, "),
        ((bundle, empty), 2, "expected images, found none"),
        ((bundle, tmp_path / "nothing.png"), 2, "no such file"),
        ((tmp_path / "no-bundle", images), 4, "is not a bundle"),
        ((bundle, images, "--variant", "onnxruntime-cpu-fp23"), 4, "did you mean 'onnxruntime-cpu-fp32'"),
    ):
        result = run("embed", *arguments)
        assert (result.exit_code, message in result.stderr) == (code, True), result.stderr
    assert existing.read_bytes() == b"precious"


def test_resume_skips_what_is_done_and_redoes_what_changed(
    run: Run, bundle: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = images.parent / "out.npz"

    def fail(self: object, order: object, provenance: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(journal_module.Journal, "finish", fail)
        assert run("embed", bundle, images, "-o", output).exit_code == 130
    assert not output.exists()
    rng = np.random.default_rng(9)
    Image.fromarray(rng.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(images / "a.png")
    result = run("embed", bundle, images, "-o", output, "--resume", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["skipped_files"], document["images"]) == (4, 1)
    expected = naflex_deploy.load(bundle).embed(dict.fromkeys(images / name for name in ORDER))
    with np.load(output) as arrays:
        np.testing.assert_allclose(arrays["embedding"], expected, atol=1e-5)
    assert run("embed", bundle, images, "-o", output, "--resume").exit_code == 0, "a finished run resumes to nothing"


def test_a_killed_run_loses_and_doubles_nothing(bundle: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, a torn last line, then --resume."""
    rng = np.random.default_rng(1)
    many = tmp_path / "many"
    many.mkdir()
    for index in range(60):
        height, width = rng.integers(20, 400, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(many / f"{index:03}.png")
    output = tmp_path / "out.npz"
    command = [sys.executable, "-m", "naflex_deploy", "embed", str(bundle), str(many), "-o", str(output)]
    lines = tmp_path / ".out.npz.journal" / "rows.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (lines.exists() and lines.read_bytes().count(b"\n") >= 10):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not output.exists()
    assert lines.exists()
    with lines.open("ab") as stream:
        stream.write(b'{"path": "torn')
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    with np.load(output) as arrays:
        assert [Path(path).name for path in arrays["path"]] == [f"{index:03}.png" for index in range(60)]
        expected = naflex_deploy.load(bundle).embed(sorted(many.iterdir()))
        np.testing.assert_allclose(arrays["embedding"], expected, atol=1e-5)


def test_a_full_disk_leaves_no_output(run: Run, bundle: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ZipFile, "open", full)
    output = images.parent / "out.npz"
    result = run("embed", bundle, images, "-o", output)
    assert result.exit_code == 2
    assert "the disk is full" in result.stderr
    assert not output.exists()


def test_a_directory_of_parts_is_replaced_and_another_one_is_not(
    run: Run, bundle: Path, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.parts"
    for option, said in ((), "6 vectors"), (("--force",), "7 vectors"), (("--resume",), "complete already"):
        result = run("embed", bundle, images, "-o", output, *option)
        assert (result.exit_code, said in result.output) == (0, True), result.output
        (images / "more.png").write_bytes((images / "a.png").read_bytes())
    foreign = tmp_path / "mine.parts"
    foreign.mkdir()
    (foreign / "letters.txt").write_text("mine")
    result = run("embed", bundle, images, "-o", foreign, "--force")
    assert (result.exit_code, "it was not made by this command" in result.stderr) == (2, True)
    assert [path.name for path in foreign.iterdir()] == ["letters.txt"]
