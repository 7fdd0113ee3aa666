"""From a directory of images to a calibration file: the same file every time, also after a kill, or none at all."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.compiler.quantize import calibration, observing, request
from naflex_deploy.compiler.quantize.calibration import Calibrated, calibrate
from naflex_deploy.compiler.quantize.images import shuffled
from naflex_deploy.compiler.quantize.observation import BINS
from naflex_deploy.compiler.quantize.observer import Observer
from naflex_deploy.compiler.quantize.observing import GATE_EVERY
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.compiler.quantize.subject import subject_of
from naflex_deploy.core.config import Config, resolve
from naflex_deploy.core.errors import CalibrationError, CheckpointError, NaflexError, OutputError, UsageError
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.core.progress import Counts
from naflex_deploy.demo.draw import draw_page
from naflex_deploy.runtime.images import versions
from naflex_deploy.runtime.packing.prepare import Preparer
from tests.compiler.quantize.test_observer import reading
from tests.support.packs import inputs
from tests.support.tiny import SETTINGS, tiny_checkpoint

FILES = 40

RUN = """
import os, signal, sys
from pathlib import Path
from tests.compiler.quantize import test_calibration as tests
from tests.support.tiny import copied
tests.observing.ROUND, tests.observing.KEEP_SECONDS = 5, 0.0
def count(counts):
    if counts.done >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
tests.calibration.export = copied(Path(sys.argv[3]))
tests.run(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=count)
"""
"""A calibration in a process of its own, killed when so many images were observed."""


def config(samples: int = 24, *settings: str) -> Config:
    found = resolve("photo", settings=[*SETTINGS, *settings], environment={})
    section = found.profile.calibration.model_copy(update={"samples": samples})
    return dataclasses.replace(found, profile=found.profile.model_copy(update={"calibration": section}))


def run(images: Path, output: Path, settings: Config | None = None, **options: object) -> Calibrated:
    with patch.object(checkpoints, "read", lambda model, lora=None: tiny_checkpoint()):
        return calibrate(settings or config(), "tiny", images, output, **options)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _small_rounds(_exported_before: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "ROUND", 5)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pieces of a drawn page, of different sizes, some in a subdirectory. Not to be changed."""
    folder = tmp_path_factory.mktemp("drawn") / "images"
    (folder / "deeper").mkdir(parents=True)
    page = draw_page(5, "letter").image.resize((400, 400))
    rng = np.random.default_rng(0)
    for number in range(FILES):
        width, height = (int(side) for side in rng.integers(10, 140, 2))
        left, top = (int(rng.integers(0, 400 - side)) for side in (width, height))
        name = f"{'deeper/' if number % 5 == 0 else ''}{number:02}.png"
        page.crop((left, top, left + width, top + height)).save(folder / name)
    return folder


@pytest.fixture
def images(drawn: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(drawn, tmp_path / "images"))


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


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


def test_a_killed_run_goes_on_to_the_same_bytes(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    output, after = tmp_path / "out.json", 15
    killed = subprocess.run([sys.executable, "-c", RUN, str(drawn), str(output), str(bundle), str(after)])
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path) == [".out.json.journal", ".out.json.lock"]
    with pytest.raises(UsageError, match=r"was begun with something else: seed was 0, is 9"):
        run(drawn, output, seed=9, resume=True)
    order = tmp_path / ".out.json.journal" / "order.json"
    begun = order.read_bytes()
    for content in (b"", begun[:99], json.dumps({"key": ["an", "earlier", "version"], "order": []}).encode()):
        order.write_bytes(content)
        with pytest.raises(UsageError, match=r"order.json is damaged or of another version"):
            run(drawn, output, resume=True)
    order.write_bytes(begun)
    counts: list[Counts] = []
    found = run(drawn, output, resume=True, on_progress=counts.append)
    assert found.resumed == after - 5  # The last round was observed, but not saved.
    assert [one.done for one in counts] == [*range(after - 5, 24, 5), 24]
    assert {(one.total, one.before) for one in counts} == {(24, after - 5)}
    assert (counts[0].images, counts[-1].images) == (0, 24 - (after - 5)), "each is of one tile"
    assert 0 < counts[1].tokens < counts[-1].tokens
    assert names(tmp_path) == ["out.json"]
    run(drawn, tmp_path / "at once.json")
    assert output.read_bytes() == (tmp_path / "at once.json").read_bytes()


def test_a_file_is_complete_where_it_was_made_of_the_same_alone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.json"
    (images / "text.png").write_text("no image")
    asked = config(20, "image.dpi=72")
    run(images, output, asked)
    before = output.read_bytes()
    again = run(images, output, asked, resume=True)
    assert (again.complete, again.spec.key) == (True, QuantSpec.read(output).key)

    def refused(named: str, settings: Config = asked, **options: object) -> None:
        with pytest.raises(UsageError, match=rf"is complete, but was made with something else: {named} \(pass"):
            run(images, output, settings, resume=True, **options)
        assert output.read_bytes() == before

    labels = tmp_path / "labels.csv"
    labels.write_text("01.png,letter\n")
    refused("seed", seed=1)
    refused("labels", labels=labels)
    refused("sensitivity", sensitivity=lambda *arguments: None)
    refused("samples", config(21, "image.dpi=72"))
    refused("settings", config(20, "video.rate=3", "image.dpi=72"))
    refused("image, settings", config(20))
    refused("method", config(20, "image.dpi=72", "calibration.method=mse"))
    with monkeypatch.context() as patched:
        patched.setattr(request, "__version__", "9.9")
        refused("naflex-deploy")
    with monkeypatch.context() as patched:
        patched.setattr(versions, "version", lambda package: "9.9")
        refused("readers")
    tried = shuffled(sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png")), 0)
    shutil.copy(images / tried[-1], images / tried[0])
    refused("inputs")
    (images / tried[-1]).unlink()
    refused("inputs")
    assert run(images, output, asked, resume=True, force=True).spec.samples != again.spec.samples
    QuantSpec.read(output)
    output.write_text(output.read_text()[:-99])
    with pytest.raises(CalibrationError):
        run(images, output, asked, resume=True)
    dataclasses.replace(again.spec, origin={}).write(output)
    with pytest.raises(UsageError, match="does not say what it was made with"):
        run(images, output, asked, resume=True)


def test_a_disk_that_fills_up_is_one_message(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(calibration, "export", full)
    with pytest.raises(OutputError, match=r"cannot write .*out\.json: the disk is full"):
        run(drawn, tmp_path / "out.json")
    assert names(tmp_path) == [".out.json.journal"]
    assert names(tmp_path / ".out.json.journal") == ["order.json"]


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


def only(count: int) -> Callable[[Path], None]:
    def change(images: Path) -> None:
        for path in sorted(images.rglob("*.png"))[count:]:
            path.unlink()

    return change


def rewritten(make: Callable[[int, Image.Image], Image.Image]) -> Callable[[Path], None]:
    def change(images: Path) -> None:
        for number, path in enumerate(sorted(images.rglob("*.png"))):
            with Image.open(path) as image:
                make(number, image).save(path)

    return change


def spoiled(images: Path) -> None:
    for path in sorted(images.rglob("*.png"))[19:]:
        path.write_bytes(b"")


def coloured(number: int, image: Image.Image) -> Image.Image:
    return Image.new("RGB", image.size, (number, 2 * number, 255 - number)) if number > 10 else image


BAD = {
    "none": (shutil.rmtree, "expected a directory, found nothing of that name"),
    "no image": (only(0), "expected images, found none"),
    "too few": (only(19), "expected at least 20 different images .* found 19"),
    "too few that can be read": (spoiled, "expected at least 20 different images .* found 19"),
    "too few that differ": (rewritten(lambda number, image: Image.new("RGB", (20, 30))), "images .* found 1 "),
    "one colour": (rewritten(coloured), "expected at least 16 images of more than one colour, found [0-9] of 24 "),
    "one size": (
        rewritten(lambda number, image: image.resize((40, 24))),
        "as profile 'photo' has 3 budgets, found one size, 5x3 patches",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_images_that_say_too_little_leave_nothing(images: Path, tmp_path: Path, kind: str) -> None:
    change, message = BAD[kind]
    change(images)
    with pytest.raises(UsageError, match=message) as caught:
        run(images, tmp_path / "out.json")
    assert caught.value.code == 2
    assert str(images) in caught.value.message
    assert caught.value.hint
    assert names(tmp_path) in (["images"], [])


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


class Poisoned(Observer):
    """The middle image of every pack has a value that is not finite."""

    def activations(self, pack: Pack) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        for names, values in super().activations(pack):
            if names[0] == "blocks.1.mlp.fc2.input":
                values[pack.segment_ids == pack.images // 2, 3] = np.inf
            yield names, values


def test_activations_that_are_not_finite_name_the_site_and_the_image(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "Observer", Poisoned)
    merged: list[list[str]] = []
    merge = observing.Observing._merge

    def noted(self: object, members: list[tuple[str, Patches]]) -> None:
        merged.append([path for path, _ in members])
        merge(self, members)  # type: ignore[arg-type]

    monkeypatch.setattr(observing.Observing, "_merge", noted)
    with pytest.raises(CheckpointError, match=r"^blocks\.1\.mlp\.fc2\.input is NaN or infinite for ") as caught:
        run(drawn, tmp_path / "out.json")
    assert f"{drawn / merged[0][len(merged[0]) // 2]}, which no range can cover" in caught.value.message
    assert caught.value.code == 2
    assert names(tmp_path) == []


def test_too_few_samples_labels_of_other_files_and_an_output_that_is_there(drawn: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("01.png,receipt\nother.png,page\n")
    output = tmp_path / "out.json"
    for options, message in (
        ({"settings": config(15)}, "calibration.samples: expected at least 16, found 15"),
        ({"labels": labels}, "line 2: expected path,class with the path of an image, found 'other.png,page'"),
        ({"labels": tmp_path / "none.csv"}, r"cannot read .*none\.csv: No such file"),
    ):
        with pytest.raises(UsageError, match=message):
            run(drawn, output, **options)  # type: ignore[arg-type]
    output.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        run(drawn, output)
    assert output.read_text() == "mine"
    assert names(tmp_path) == ["labels.csv", "out.json"]
    run(drawn, output, force=True)
    assert QuantSpec.read(output).samples


def test_an_output_that_cannot_be_written_is_refused_before_anything_is_observed(drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    counts: list[Counts] = []
    with pytest.raises(NaflexError, match="a part of the path is a file"):
        run(drawn, tmp_path / "file" / "out.json", on_progress=counts.append)
    assert counts == []


def test_the_file_is_plain_json_of_its_schema(drawn: Path, tmp_path: Path) -> None:
    run(drawn, tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert content["schema"] == 1
    assert content["sites"][1]["names"] == [f"blocks.0.{layer}.input" for layer in ("query", "key", "value")]
    assert content["sites"][1]["low"] < 0 < content["sites"][1]["high"]
