"""Calibrations that cannot be: what is refused, what it says, and that nothing is left behind."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from naflex_deploy.compiler.quantize import calibration, observing
from naflex_deploy.compiler.quantize.observer import Observer
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.errors import CheckpointError, NaflexError, OutputError, UsageError
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.core.progress import Counts
from tests.compiler.quantize.calibrating import config, drawn, images, names, rewritten, run, small_rounds

__all__ = ["drawn", "images", "small_rounds"]


def test_a_disk_that_fills_up_is_one_message(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(model: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(calibration, "export", full)
    with pytest.raises(OutputError, match=r"cannot write .*out\.json: the disk is full"):
        run(drawn, tmp_path / "out.json")
    assert names(tmp_path) == [".out.json.journal"]
    assert names(tmp_path / ".out.json.journal") == ["order.json"]


def only(count: int) -> Callable[[Path], None]:
    def change(images: Path) -> None:
        for path in sorted(images.rglob("*.png"))[count:]:
            path.unlink()

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


class Poisoned(Observer):
    """The middle image of every pack has a value that is not finite."""

    def activations(self, pack: Pack) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
        for sites, values in super().activations(pack):
            if sites[0] == "blocks.1.mlp.fc2.input":
                values[pack.segment_ids == pack.images // 2, 3] = np.inf
            yield sites, values


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
