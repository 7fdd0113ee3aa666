"""Golden images are part of a bundle, and verification notices a library that decodes other pixels from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from naflex_deploy.cli import main
from naflex_deploy.compiler.golden_images import golden_contents
from naflex_deploy.core.errors import BundleError
from naflex_deploy.core.manifest import FILE_NAME, Manifest
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.runtime.bundle.golden_images import FILE, TOKENS, GoldenImages
from naflex_deploy.runtime.bundle.verify import verify
from naflex_deploy.runtime.images.media.colours import to_rgb

MODEL = Preprocessing(patch_size=16, resample="bicubic")


@pytest.fixture(scope="module")
def images() -> GoldenImages:
    return GoldenImages.of(golden_contents(), MODEL)


def test_a_bundle_carries_a_dozen_in_a_small_file(bundle: Path) -> None:
    found = GoldenImages.read(bundle / FILE)
    assert len(found.images) == 12
    assert FILE in Manifest.read(bundle).files
    assert (bundle / FILE).stat().st_size < 400_000
    assert len({image.grid_hw for image in found.images}) >= 5
    for image in found.images:
        assert 1 <= image.grid_hw[0] * image.grid_hw[1] <= TOKENS
        assert image.patches.std() > 5, "a flat picture shows nothing"


def test_they_survive_writing_and_reading(images: GoldenImages, tmp_path: Path) -> None:
    images.write(tmp_path / FILE)
    found = GoldenImages.read(tmp_path / FILE)
    assert found.versions == images.versions
    assert found.versions["pillow"] == Image.__version__
    check = found.check(MODEL)
    assert (check.images, check.worst, check.changed) == (12, 0, {})
    (tmp_path / FILE).write_bytes(b"no archive")
    with pytest.raises(BundleError, match="damaged"):
        GoldenImages.read(tmp_path / FILE)


def test_an_untrue_decoder_is_named_by_its_images(images: GoldenImages, monkeypatch: pytest.MonkeyPatch) -> None:
    def brighter(image: Image.Image, *rest: object) -> object:
        rgb, decisions = to_rgb(image, *rest)
        return (rgb.point(lambda value: min(255, value + 9)) if image.format == "JPEG" else rgb), decisions

    monkeypatch.setattr("naflex_deploy.runtime.images.media.stills.to_rgb", brighter)
    check = images.check(MODEL)
    assert set(check.changed) == {image.name for image in images.images if image.name.startswith("jpeg")}
    assert 5 <= check.worst <= 12
    assert not check.passed


def test_the_other_order_of_passes_is_seen(images: GoldenImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bicubic, the height first: what Pillow 13 does of its own accord."""

    def height_first(image: Image.Image, size: tuple[int, int], resample: int) -> Image.Image:
        return image.resize((image.width, size[1]), resample).resize(size, resample)

    monkeypatch.setattr("naflex_deploy.runtime.images.fit.resized", height_first)
    check = images.check(MODEL)
    assert "png, a column that shrinks tenfold" in check.changed
    assert check.worst >= 1


def test_verify_says_what_changed_and_exits_3(own_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verify(own_bundle).pixels is not None
    result = CliRunner().invoke(main, ["verify", str(own_bundle)])
    assert result.exit_code == 0
    assert "golden images: 12 read, every patch equal to the bit" in result.output
    monkeypatch.setattr("naflex_deploy.runtime.images.fit.resized", lambda image, size, _: image.resize(size, 0))
    result = CliRunner().invoke(main, ["verify", str(own_bundle)])
    assert result.exit_code == 3
    assert "bmp, enlarged: " in result.output


def test_an_older_bundle_has_none_and_is_verified_as_before(own_bundle: Path) -> None:
    manifest = Manifest.read(own_bundle)
    files = {name: entry for name, entry in manifest.files.items() if name != FILE}
    (own_bundle / FILE_NAME).write_text(manifest.model_copy(update={"files": files}).to_json())
    (own_bundle / FILE).unlink()
    verification = verify(own_bundle)
    assert verification.pixels is None
    assert verification.passed


def test_a_picture_that_cannot_be_read_any_more_is_a_difference(images: GoldenImages) -> None:
    spoiled = GoldenImages([replace(images.images[0], content=images.images[0].content[:50])], images.versions)
    check = spoiled.check(MODEL)
    assert check.worst == 255
    assert not check.passed
