"""``naflex-deploy embed`` on inputs of many frames: none is lost or doubled, whatever stops the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import naflex_deploy
from naflex_deploy.runtime.results.journal import Journal
from tests.cli.conftest import Run
from tests.support.clips import clip, sound
from tests.support.dicoms import BIRTH, dicom
from tests.support.pdfs import encrypted, pdf, rectangle, text


def kill_in_the_middle(command: list[str], lines: Path, rows: int) -> None:
    """Start a command, and SIGKILL it once so many rows are recorded."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (lines.exists() and lines.read_bytes().count(b"\n") >= rows):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert lines.read_bytes().count(b"\n") >= rows


def test_a_killed_run_goes_on_at_the_page_where_it_was(bundle: Path, tmp_path: Path) -> None:
    document, output = tmp_path / "long.pdf", tmp_path / "out.npz"
    document.write_bytes(pdf([rectangle(10, 10, 4 * number + 1, 500) for number in range(120)]))
    command = [sys.executable, "-m", "naflex_deploy", "embed", str(bundle), str(document), "-o", str(output)]
    lines = tmp_path / ".out.npz.journal" / "rows.jsonl"
    kill_in_the_middle(command, lines, 20)
    recorded = lines.read_bytes().count(b"\n")
    assert not output.exists()
    done = subprocess.run([*command, "--resume", "--json"], check=True, capture_output=True)
    assert json.loads(done.stdout)["images"] == 120 - recorded, "pages recorded are not embedded again"
    with np.load(output) as arrays:
        assert arrays["frame"].tolist() == list(range(120))
        found = arrays["embedding"]
    whole = tmp_path / "whole.npz"
    subprocess.run([*command[:-1], str(whole)], check=True, capture_output=True)
    with np.load(whole) as arrays:
        np.testing.assert_allclose(found, arrays["embedding"], atol=1e-5)
    assert len({vector.tobytes() for vector in found}) == 120, "the pages differ"


def test_bad_documents_are_reported_and_the_others_embedded(run: Run, bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    good = pdf([text("page", 12, (50, 50))] * 2)
    (folder / "a.pdf").write_bytes(good)
    (folder / "b.pdf").write_bytes(encrypted(good))
    (folder / "c.pdf").write_bytes(good[:300])
    (folder / "d.pdf").write_bytes(pdf([]))
    (folder / "e.pdf").write_bytes(pdf([""], (0.1, 800)))
    (folder / "f.pdf").write_bytes(pdf([""]))
    result = run("embed", bundle, folder, "-o", tmp_path / "out.jsonl", "--json")
    assert result.exit_code == 6
    document = json.loads(result.stdout)
    assert [(Path(row["path"]).name, row["frame"]) for row in document["rows"]] == [
        ("a.pdf", 0),
        ("a.pdf", 1),
        ("f.pdf", 0),
    ]
    assert [Path(item["path"]).name for item in document["rejected"]] == ["b.pdf", "c.pdf", "d.pdf", "e.pdf"]
    assert all(row["dpi"] == 150 for row in document["rows"])
    assert document["seconds"] > 0


def test_a_clip_killed_in_the_middle_goes_on_with_its_times(run: Run, bundle: Path, tmp_path: Path) -> None:
    path, output = clip(tmp_path / "a.mkv", [130 * number for number in range(40)]), tmp_path / "out.npz"
    (tmp_path / "mute.mkv").write_bytes(sound(tmp_path / "sound.mkv").read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "finish", lambda self, order, provenance: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("embed", bundle, path, "-o", output)
    lines = tmp_path / ".out.npz.journal" / "rows.jsonl"
    recorded = lines.read_bytes().splitlines(keepends=True)
    lines.write_bytes(b"".join(recorded[:3]) + recorded[3][:9])
    result = run("embed", bundle, path, tmp_path / "mute.mkv", "-o", output, "--resume", "--json")
    assert result.exit_code == 6, result.output
    assert json.loads(result.stdout)["images"] == 3
    with np.load(output) as arrays:
        assert arrays["frame"].tolist() == [0, 1, 2, 3, 4, 5]
        assert arrays["time"].tolist() == [0.0, 1.04, 2.08, 3.12, 4.03, 5.07]
        np.testing.assert_allclose(arrays["embedding"], naflex_deploy.load(bundle).embed([path]), atol=1e-5)


@pytest.mark.parametrize("suffix", ["npz", "jsonl"])
def test_outputs_hold_nothing_of_a_patient(run: Run, bundle: Path, tmp_path: Path, suffix: str) -> None:
    folder, output = tmp_path / "study", tmp_path / f"out.{suffix}"
    folder.mkdir()
    rng = np.random.default_rng(0)
    (folder / "1.dcm").write_bytes(dicom(rng.integers(0, 4096, (3, 40, 50), np.uint16), WindowCenter=9, WindowWidth=9))
    (folder / "2.dcm").write_bytes(dicom(None))
    assert run("embed", bundle, folder, "-o", output).exit_code == 0  # a folder may hold reports
    result = run("embed", bundle, folder, folder / "2.dcm", "-o", output, "--force")
    assert result.exit_code == 6
    assert "a DICOM file without any" in result.stderr
    content = output.read_bytes() + result.output.encode()
    assert content.count(b"1.dcm") or suffix == "npz"
    assert not any(secret in content for secret in (b"Doe", b"Jane", BIRTH.encode(), b"QUARTZ"))


def test_shards_and_tables_resume_and_bad_ones_lose_no_other(run: Run, bundle: Path, images: Path) -> None:
    files = [images / name for name in ("a.png", "b.jpg", "c.bmp", "deeper/d.webp")]
    shard, table, output = images / "shard.tar", images / "table.parquet", images / "out.npz"
    with tarfile.open(shard, "w") as archive:
        for file in files:
            archive.add(file, file.name)
    parquet.write_table(pa.table({"image": [file.read_bytes() for file in files]}), table)
    (images / "bad.tar").write_bytes(b"no archive" * 60)
    inputs = [shard, images / "bad.tar", table]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "finish", lambda self, order, provenance: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("embed", bundle, *inputs, "-o", output)
    lines = images / ".out.npz.journal" / "rows.jsonl"
    recorded = lines.read_bytes().splitlines(keepends=True)
    lines.write_bytes(b"".join(recorded[:5]))
    result = run("embed", bundle, *inputs, "-o", output, "--resume", "--json")
    assert result.exit_code == 6, result.output
    document = json.loads(result.stdout)
    assert (document["images"], document["skipped_files"]) == (3, 5)
    assert [item["path"] for item in document["rejected"]] == [str(images / "bad.tar")]
    expected = naflex_deploy.load(bundle).embed(files)
    with np.load(output) as arrays:
        names = [f"{shard}/{file.name}" for file in files] + [f"{table}#{row}" for row in range(4)]
        assert arrays["path"].tolist() == names
        np.testing.assert_allclose(arrays["embedding"], [*expected, *expected], atol=1e-5)


def test_previews_are_drawn_of_every_frame(run: Run, pages_bundle: Path, images: Path) -> None:
    document, folder = images / "two.pdf", images / "previews"
    document.write_bytes(pdf([rectangle(40, 40, 120, 120), ""], (200, 200)))
    result = run("embed", pages_bundle, document, images / "missing.jpg", "--preview", folder)
    assert result.exit_code == 2, "what is missing is found before anything is drawn"
    assert run("embed", pages_bundle, document, images / "e.tiff", "--preview", folder).exit_code == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["000000-00000.png", "000000-00001.png", "000001-00000.png", "000001-00001.png"]
    drawn = np.asarray(Image.open(folder / names[0]))
    assert drawn[340, 340].max() < 100, "the page, black in its middle"
    assert drawn.shape[1] > 2 * 640, "beside it its tokens"


def test_settings_say_how_inputs_are_read(run: Run, bundle: Path, tmp_path: Path) -> None:
    path, output = clip(tmp_path / "a.mkv", [40 * number for number in range(40)]), tmp_path / "out.npz"
    assert run("embed", bundle, path, "-o", output, "--set", "video.rate=5").exit_code == 0
    with np.load(output) as arrays:
        assert arrays["time"].tolist() == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4]
        assert json.loads(str(arrays["preparation"]))["video"]["rate"] == 5
    result = run("embed", bundle, path, "--set", "packing.max_images=3")
    assert result.exit_code == 2
    assert "expected a key of image or video or dicom or volume or ros" in result.stderr
