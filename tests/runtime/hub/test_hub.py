"""Bundles go to the hub and come back, through huggingface_hub's own client and a stand-in of the hub on loopback."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

import naflex_deploy as nd
from naflex_deploy.core.errors import BundleError, OutputError, UsageError
from naflex_deploy.core.manifest import FILE_NAME, Manifest
from naflex_deploy.runtime.bundle.signature import SIGNATURE, sign
from naflex_deploy.runtime.bundle.verify import verify
from naflex_deploy.runtime.hub.pull import pull
from naflex_deploy.runtime.hub.push import CARD, push
from naflex_deploy.runtime.hub.repository import Repository
from tests.runtime.bundle.test_signature import write_keys
from tests.support.hub import TOKEN, Hub, commit, serving
from tests.support.tiny import VARIANT

TEAM = Repository("team/photo")


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    return write_keys(folder, name, ec.generate_private_key(ec.SECP256R1()))


IMAGE = np.random.default_rng(5).integers(0, 256, (40, 56, 3), np.uint8)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "ours"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub", tmp_path / "theirs") as running:
        yield running


def test_a_bundle_comes_back_as_it_was_pushed(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    revision = push(bundle, TEAM)
    assert revision == commit(hub.root / "team/photo")
    found = pull(TEAM, tmp_path / "copy")
    assert found.manifest == Manifest.read(bundle)
    assert verify(tmp_path / "copy").passed
    assert not (tmp_path / "copy" / CARD).exists()
    with pytest.raises(OutputError, match="exists already"):
        pull(TEAM, tmp_path / "copy")


def test_an_engine_downloads_the_files_of_its_variant_alone(hub: Hub, bundle: Path) -> None:
    push(bundle, TEAM)
    vector = nd.load(bundle).embed(IMAGE)
    np.testing.assert_array_equal(nd.load("hf:team/photo").embed(IMAGE), vector)
    own = [f"variants/{VARIANT}/model.onnx", f"variants/{VARIANT}/model.onnx.data", "portable.onnx.data"]
    assert sorted(hub.fetched) == sorted([FILE_NAME, *own])
    hub.fetched.clear()
    nd.load(f"hf:team/photo@{commit(hub.root / 'team/photo')}")
    assert hub.fetched == []


def test_without_a_network_the_engine_comes_from_the_cache(hub: Hub, bundle: Path) -> None:
    push(bundle, TEAM)
    vector = nd.load("hf:team/photo").embed(IMAGE)
    hub.answer = lambda request: request.connection.close()  # type: ignore[method-assign]
    np.testing.assert_array_equal(nd.load("hf:team/photo").embed(IMAGE), vector)
    with pytest.raises(UsageError, match="hf:team/other could not be read") as caught:
        nd.load("hf:team/other")
    assert "network" in caught.value.hint


def test_a_revision_that_moves_on_is_loaded_anew(hub: Hub, own_bundle: Path) -> None:
    push(own_bundle, TEAM)
    old = nd.load("hf:team/photo").manifest
    manifest = Manifest.read(own_bundle)
    (own_bundle / FILE_NAME).write_text(manifest.model_copy(update={"created": "later"}).to_json())
    push(own_bundle, TEAM)
    assert (old.created, nd.load("hf:team/photo").manifest.created) == (manifest.created, "later")


def test_a_file_that_was_changed_on_the_hub_is_never_opened(hub: Hub, bundle: Path, tmp_path: Path) -> None:
    push(bundle, TEAM)
    path = hub.root / "team/photo" / f"variants/{VARIANT}/model.onnx"
    path.write_bytes(path.read_bytes()[::-1])
    for load in (lambda: nd.load("hf:team/photo"), lambda: pull(TEAM, tmp_path / "copy")):
        with pytest.raises(BundleError, match=r"model\.onnx was changed"):
            load()
    assert not (tmp_path / "copy").exists()
    assert not [path for path in (tmp_path / "ours").rglob("*") if path.is_file()]


def test_a_signature_is_checked_before_anything_is_opened(hub: Hub, own_bundle: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "mine")
    push(own_bundle, TEAM)
    with pytest.raises(BundleError, match="is not signed"):
        nd.load("hf:team/photo", public_key=public)
    sign(own_bundle, private)
    push(own_bundle, TEAM)
    nd.load("hf:team/photo", public_key=public).embed(IMAGE)
    nd.load(own_bundle, public_key=public).embed(IMAGE)
    assert (pull(TEAM, tmp_path / "copy", public_key=public).path / SIGNATURE).is_file()
    other = key_pair(tmp_path, "other")[1]
    for source in ("hf:team/photo", own_bundle):
        with pytest.raises(BundleError, match="the signature is not valid"):
            nd.load(source, public_key=other)


def test_what_an_older_bundle_held_goes_and_what_is_no_bundle_stays(hub: Hub, bundle: Path, own_bundle: Path) -> None:
    push(bundle, TEAM)
    folder = hub.root / "team/photo"
    (folder / "variants" / "gone.onnx").write_text("of an older bundle")
    push(bundle, TEAM)
    assert not (folder / "variants" / "gone.onnx").exists()
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    with pytest.raises(UsageError, match="holds 1 files, but no bundle"):
        push(bundle, TEAM)
    (own_bundle / "golden.npz").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"golden\.npz"):
        push(own_bundle, Repository("team/new"))
    assert not (hub.root / "team/new").exists()


def test_a_push_needs_the_right_to_write(hub: Hub, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    with pytest.raises(UsageError, match="hf:team/photo could not be written") as caught:
        push(bundle, TEAM)
    assert "no right to write" in caught.value.hint
    assert list(hub.root.iterdir()) == []


def test_a_push_that_another_overtakes_fails(hub: Hub, bundle: Path) -> None:
    push(bundle, TEAM)
    write = hub._write

    def overtaken(request, parts, body):
        if "preupload" in parts:
            (hub.root / "team/photo" / "note").write_text("of somebody else")
        write(request, parts, body)

    hub._write = overtaken  # type: ignore[method-assign]
    with pytest.raises(UsageError) as caught:
        push(bundle, TEAM)
    assert "somebody else changed it meanwhile" in caught.value.hint


@pytest.mark.parametrize("name", ["hf:photo", "hf:a/b/c", "hf:team/photo@", "hf:/x", "hf:team/pho to", "hf:../x"])
def test_what_names_no_repository_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="expected hf:ORG/NAME"):
        nd.load(name)


def test_a_repository_without_a_bundle_says_so(hub: Hub) -> None:
    (hub.root / "team/photo").mkdir(parents=True)
    with pytest.raises(UsageError, match="hf:team/photo could not be read") as caught:
        nd.load("hf:team/photo")
    assert "no bundle" in caught.value.hint
    with pytest.raises(UsageError) as caught:
        nd.load("hf:team/none")
    assert "check the name" in caught.value.hint


def test_the_card_says_what_the_manifest_says(hub: Hub, bundle: Path) -> None:
    push(bundle, TEAM)
    _, head, text = (hub.root / "team/photo" / CARD).read_text().split("---\n", 2)
    front = yaml.safe_load(head)
    assert front["library_name"] == "naflex-deploy"
    assert front["pipeline_tag"] == "image-classification"
    assert "onnxruntime" in front["tags"]
    manifest = Manifest.read(bundle)
    for word in (
        VARIANT,
        manifest.model.digest,
        'nd.load("hf:team/photo")',
        f"{manifest.variants[0].gate.min_cosine:.6f}",
    ):
        assert word in text
