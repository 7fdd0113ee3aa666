"""From a directory of images to a calibration file, the same file every time."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch

from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.compiler.quantize.observation import BINS
from naflex_deploy.compiler.quantize.observing import GATE_EVERY
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.compiler.quantize.subject import subject_of
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.core.progress import Counts
from naflex_deploy.runtime.packing.prepare import Preparer
from tests.compiler.quantize.calibrating import FILES, config, drawn, images, names, rewritten, run, small_rounds
from tests.compiler.quantize.test_observer import reading
from tests.support.packs import inputs
from tests.support.tiny import tiny_checkpoint

__all__ = ["drawn", "images", "small_rounds"]


def digests(folder: Path) -> dict[str, Path]:
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in folder.rglob("*.png")}


def prepared(path: Path) -> Patches:
    checkpoint = tiny_checkpoint()
    (found,) = next(Preparer(checkpoint.preprocessing, config().profile, "onnxruntime")(0, path))
    assert found.patches is not None
    return found.patches


def test_histograms_are_those_of_what_the_reference_model_reads(drawn: Path, tmp_path: Path) -> None:
    """Only real tokens are observed, and all of them."""
    spec = run(drawn, tmp_path / "out.json").spec
    by_digest = digests(drawn)
    observed = [prepared(by_digest[digest]) for digest in spec.samples]
    model = tiny_checkpoint().model(("tokens", "pooled", "logits"), ragged_attention)
    with reading(model) as wanted, torch.inference_mode():
        model(*inputs(model, Pack.of(observed)))
    del wanted["pool.query.input"]
    assert spec.sites.keys() == wanted.keys()
    for site, values in wanted.items():
        seen = spec.sites[site]
        rows = values.reshape(-1, values.shape[-1])
        counts = np.histogram(values, BINS, (-seen.limit, seen.limit))[0]
        assert seen.counts.sum() == values.size, site
        # Both compute in float32, so a few values fall on the other side of a bin's edge.
        assert np.abs(np.cumsum(seen.counts - counts)).max() <= max(1, 0.001 * values.size), site
        atol = 1e-5 * np.abs(values).max()
        np.testing.assert_allclose(seen.channel_low, rows.min(0), atol=atol, rtol=0)
        np.testing.assert_allclose(seen.channel_high, rows.max(0), atol=atol, rtol=0)


def test_the_file_says_what_it_is_about(drawn: Path, tmp_path: Path) -> None:
    found = run(drawn, tmp_path / "out.json", config(20), seed=3)
    spec = QuantSpec.read(tmp_path / "out.json")
    assert names(tmp_path) == ["out.json"]
    assert spec.key == found.spec.key
    spec.check(subject_of(tiny_checkpoint(), config().profile))
    assert (spec.method, spec.seed, len(spec.samples)) == ("percentile", 3, 20)
    assert (found.rejected, found.warnings, found.resumed) == ([], [], 0)
    sizes = [prepared(digests(drawn)[digest]) for digest in spec.samples]
    tokens = sorted(len(image) for image in sizes)
    figures = spec.coverage
    assert figures["files"] == figures["images"] == 20
    assert figures["tokens"] == {"least": tokens[0], "median": tokens[10], "most": tokens[-1], "all": sum(tokens)}
    assert figures["grids"] == len({image.grid_hw for image in sizes})
    assert figures["budgets"] == {
        "128": sum(count <= 128 for count in tokens),
        "512": sum(count > 128 for count in tokens),
    }


def test_images_of_the_gate_are_not_observed(drawn: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    paths = [path.relative_to(drawn).as_posix() for path in digests(drawn).values()]
    labels.write_text("".join(f"{path},kind {path[-5]}\n" for path in paths))
    spec = run(drawn, tmp_path / "out.json", labels=labels).spec
    assert len(spec.gate_samples) == spec.coverage["gate_files"] == -(-FILES // GATE_EVERY) - 2
    by_digest = digests(drawn)
    observed = [prepared(by_digest[digest]) for digest in spec.samples]
    others = {digest: path for digest, path in by_digest.items() if digest not in spec.samples}

    def same(a: Patches, b: Patches) -> bool:
        return a.grid_hw == b.grid_hw and np.array_equal(a.pixels, b.pixels)

    for image, label in zip(spec.gate_samples, spec.gate_labels, strict=True):
        (path,) = [path for path in others.values() if same(image, prepared(path))]
        assert label == f"kind {path.name[-5]}"
    assert spec.tuning_samples
    assert all(any(same(image, one) for one in observed) for image in spec.tuning_samples)


def test_the_same_seed_gives_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(drawn, tmp_path / name, seed=seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    one, other = (QuantSpec.read(tmp_path / name) for name in ("a", "c"))
    assert set(one.samples) != set(other.samples)
    assert one.key != other.key


def test_another_method_changes_its_own_name_alone(drawn: Path, tmp_path: Path) -> None:
    found = config()
    section = found.profile.calibration.model_copy(update={"method": "mse"})
    other = dataclasses.replace(found, profile=found.profile.model_copy(update={"calibration": section}))
    one, two = run(drawn, tmp_path / "a").spec, run(drawn, tmp_path / "b", other).spec
    assert one.key != two.key
    dataclasses.replace(one, method="mse").write(tmp_path / "c")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_files_that_are_no_images_are_reported_and_others_take_their_place(images: Path, tmp_path: Path) -> None:
    (images / "text.png").write_text("no image")
    content = (images / "01.png").read_bytes()
    (images / "cut.png").write_bytes(content[: len(content) // 2])
    (images / "copy.png").write_bytes(content)
    found = run(images, tmp_path / "out.json", config(32))
    assert sorted(path for path, _ in found.rejected) == ["cut.png", "text.png"]
    assert all(f"{images / path}: " in reason for path, reason in found.rejected)
    assert found.warnings == ["1 files are copies of others and were left out"]
    assert len(found.spec.samples) == len(set(found.spec.samples)) == 32


def test_a_directory_that_changes_is_observed_as_it_was_read_and_said_to_have_changed(
    images: Path, tmp_path: Path
) -> None:
    def report(step: str) -> None:
        if step.startswith("observing"):
            for name in ("01.png", "02.png"):
                (images / name).unlink()
            shutil.copy(images / "03.png", images / "new.png")

    def count(counts: Counts) -> None:
        if counts.done == 20:
            os.utime(images / "03.png", ns=(1, 1))

    found = run(images, tmp_path / "out.json", config(32), report=report, on_progress=count)
    assert sorted(path for path, _ in found.rejected) == ["01.png", "02.png"]
    assert found.rejected[0][1].startswith(f"{images / found.rejected[0][0]}: cannot be read: No such file")
    assert found.warnings == [
        "asked for 32 images, found 30",
        f"files in {images} changed during the run: 1 appeared, 2 vanished, 1 changed; images count as they were read",
    ]
    assert len(found.spec.samples) == 30


def test_one_size_is_enough_for_one_budget(images: Path, tmp_path: Path) -> None:
    rewritten(lambda number, image: image.resize((40, 24)))(images)
    found = config()
    packing = found.profile.packing.model_copy(update={"budgets": [4096]})
    one = dataclasses.replace(found, profile=found.profile.model_copy(update={"packing": packing}))
    assert run(images, tmp_path / "out.json", one).spec.coverage["grids"] == 1


def test_a_kind_of_image_that_is_missing_is_said(images: Path, tmp_path: Path) -> None:
    rewritten(lambda number, image: image.crop((0, 0, 10 + number, 40)))(images)
    assert run(images, tmp_path / "out.json").warnings == [
        "no image has 129 to 512 tokens, which profile 'photo' serves"
    ]


def test_the_file_is_plain_json_of_its_schema(drawn: Path, tmp_path: Path) -> None:
    run(drawn, tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["schema"] == 1
    assert content["sites"][1]["names"] == [f"blocks.0.{layer}.input" for layer in ("query", "key", "value")]
    assert content["sites"][1]["low"] < 0 < content["sites"][1]["high"]
