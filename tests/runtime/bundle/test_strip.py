"""An edge copy runs and verifies on its own, and contains nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import naflex_deploy as nd
from naflex_deploy.core.errors import BundleError, IncompatibleError, OutputError
from naflex_deploy.core.manifest import FILE_NAME, FileEntry, Manifest
from naflex_deploy.runtime.bundle.strip import strip
from naflex_deploy.runtime.bundle.verify import verify
from tests.support.manifests import edit
from tests.support.tiny import VARIANT

KEPT = {
    "golden-images.npz",
    "golden.npz",
    "portable.onnx.data",
    f"variants/{VARIANT}/model.onnx",
    f"variants/{VARIANT}/model.onnx.data",
}


@pytest.fixture
def two(own_bundle: Path) -> Path:
    """A bundle with a second variant, which shares nothing, and a calibration."""
    graph = onnx.load(own_bundle / "variants" / VARIANT / "model.onnx", load_external_data=False)
    onnx.load_external_data_for_model(graph, str(own_bundle))
    (own_bundle / "variants" / "other").mkdir()
    onnx.save(graph, own_bundle / "variants" / "other" / "model.onnx")
    (own_bundle / "calibration.json").write_text("{}")

    def add(content: dict[str, Any]) -> None:
        other = content["variants"][0] | {"name": "other", "model": "variants/other/model.onnx", "shares": []}
        content["variants"].append(other)
        content["files"] = {name: entry.model_dump() for name, entry in FileEntry.below(own_bundle).items()}
        del content["files"][FILE_NAME]

    edit(own_bundle, add)
    return own_bundle


def test_the_copy_runs_and_verifies_without_the_rest(two: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    expected = nd.load(two, variant=VARIANT).embed([image])
    manifest = strip(two, VARIANT, tmp_path / "edge")
    shutil.rmtree(two)
    edge = tmp_path / "edge"
    written = {path.relative_to(edge).as_posix() for path in edge.rglob("*") if path.is_file()}
    assert written == KEPT | {FILE_NAME}
    assert Manifest.read(edge) == manifest
    assert (set(manifest.files), [variant.name for variant in manifest.variants]) == (KEPT, [VARIANT])
    assert verify(edge).passed
    np.testing.assert_array_equal(nd.load(edge).embed([image]), expected)


def test_a_variant_that_shares_nothing_needs_no_weights_of_the_portable_graph(two: Path, tmp_path: Path) -> None:
    manifest = strip(two, "other", tmp_path / "edge")
    assert set(manifest.files) == {
        "golden-images.npz",
        "golden.npz",
        "variants/other/model.onnx",
    }


def test_an_unknown_variant_names_the_nearest(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="has no variant 'onnxruntime-cpu-fp23'") as caught:
        strip(bundle, "onnxruntime-cpu-fp23", tmp_path / "edge")
    assert VARIANT in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_changed_file_is_not_copied(two: Path, tmp_path: Path) -> None:
    (two / "golden.npz").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"golden\.npz"):
        strip(two, VARIANT, tmp_path / "edge")
    assert not (tmp_path / "edge").exists()


def test_a_change_elsewhere_does_not_matter(two: Path, tmp_path: Path) -> None:
    (two / "variants" / "other" / "model.onnx").write_bytes(b"x")
    strip(two, VARIANT, tmp_path / "edge")
    assert verify(tmp_path / "edge").passed


def test_nothing_is_written_over(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1").write_text("…")
    with pytest.raises(OutputError, match="exists already"):
        strip(bundle, VARIANT, tmp_path / "thesis")
    with pytest.raises(OutputError, match="was not made by this command"):
        strip(bundle, VARIANT, tmp_path / "thesis", force=True)
    assert (tmp_path / "thesis" / "chapter-1").exists()
    strip(bundle, VARIANT, tmp_path / "edge")
    strip(bundle, VARIANT, tmp_path / "edge", force=True)
