"""A bundle gains a variant, or has one built again, and is complete at every moment."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import onnx
import pytest

import naflex_deploy as nd
from naflex_deploy.compiler import checkpoints, rebuild
from naflex_deploy.compiler.backends.registry import choose
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.random_weights import random_checkpoint
from naflex_deploy.core.config import Config, resolve
from naflex_deploy.core.errors import BundleError, GateError, UsageError
from naflex_deploy.core.files import sha256
from naflex_deploy.core.manifest import FILE_NAME, Gate, Manifest, Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.bundle.signature import SIGNATURE
from naflex_deploy.runtime.bundle.verify import verify
from tests.support.tiny import SETTINGS, VARIANT, tiny_checkpoint, tiny_config

TWIN = "onnxruntime-cpu-twin"


def content(bundle: Path) -> dict[str, str]:
    return {str(path.relative_to(bundle)): sha256(path) for path in bundle.rglob("*") if path.is_file()}


def config(*settings: str) -> Config:
    return resolve("photo", settings=[*SETTINGS, *settings], environment={})


def into(bundle: Path, checkpoint: Checkpoint | None = None, *settings: str) -> Variant:
    with patch.object(checkpoints, "read", lambda model, lora=None: checkpoint or tiny_checkpoint()):
        return rebuild.build_into(config(*settings), "tiny", bundle)


@contextmanager
def twin() -> Iterator[None]:
    """Lower as ever, but under another name."""

    def lower(task: Task) -> Variant:
        variant = choose(tiny_config().profile)[0].lower(task)
        (task.directory / VARIANT).rename(task.directory / TWIN)
        path = task.directory / TWIN / "model.onnx"
        graph = onnx.load(path, load_external_data=False)
        for entry in (entry for tensor in graph.graph.initializer for entry in tensor.external_data):
            entry.value = entry.value.replace(VARIANT, TWIN)
        onnx.save(graph, path)
        return variant.model_copy(update={"name": TWIN, "model": variant.model.replace(VARIANT, TWIN)})

    def chosen(profile: Profile) -> tuple[object, str]:
        lowering, precision = choose(profile)
        return SimpleNamespace(backend=lowering.backend, lower=lower), precision

    with patch.object(rebuild, "choose", chosen):
        yield


def test_a_variant_is_added_and_both_run(own_bundle: Path) -> None:
    (own_bundle / "reports").mkdir()
    (own_bundle / "reports" / "verify-elsewhere.json").write_text("{}")
    before = content(own_bundle)
    with twin():
        added = into(own_bundle, None, "engine.precision=auto", "engine.memory_limit=1GiB")
    assert (added.name, added.gate.status) == (TWIN, "passed")
    assert added.build["seconds"] > 0
    manifest = Manifest.read(own_bundle)
    assert [variant.name for variant in manifest.variants] == [VARIANT, TWIN]
    after = content(own_bundle)
    assert {name: after[name] for name in before if name != FILE_NAME} == {
        name: digest for name, digest in before.items() if name != FILE_NAME
    }
    listed = set(manifest.files)
    assert listed == set(after) - {FILE_NAME, "reports/verify-elsewhere.json"}
    assert verify(own_bundle).passed
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    first, second = (nd.load(own_bundle, variant=name).embed([image]) for name in (VARIANT, TWIN))
    np.testing.assert_array_equal(first, second)
    assert [path.name for path in own_bundle.parent.iterdir()] == ["own"]


def test_a_variant_of_the_same_name_is_replaced(own_bundle: Path) -> None:
    (own_bundle / SIGNATURE).write_text("of what the bundle was before")
    before = Manifest.read(own_bundle)
    damaged = own_bundle / before.variants[0].model
    damaged.write_bytes(b"")
    rebuild.rebuild(own_bundle)
    after = Manifest.read(own_bundle)
    assert (after.files, after.config) == (before.files, before.config)
    assert verify(own_bundle).passed
    assert not (own_bundle / SIGNATURE).exists()


def test_a_rebuild_says_whether_it_is_what_was_there(own_bundle: Path) -> None:
    steps: list[str] = []
    rebuild.rebuild(own_bundle, report=steps.append)
    assert steps[-1] == f"{VARIANT} is byte for byte the same as before"
    manifest = Manifest.read(own_bundle)

    def rewrite(**changes: object) -> str:
        """Of the variant's manifest entry, and of the file that it runs."""
        variant = manifest.variants[0].model_copy(update=changes)
        entry = manifest.files[variant.model].model_copy(update={"sha256": "0" * 64})
        files = manifest.files | {variant.model: entry}
        before = manifest.model_copy(update={"variants": [variant], "files": files})
        (own_bundle / FILE_NAME).write_text(before.to_json())
        rebuild.rebuild(own_bundle, report=steps.append)
        return steps[-1]

    number = manifest.variants[0].versions["onnxruntime"]
    older = manifest.variants[0].versions | {"onnxruntime": "1.0"}
    assert rewrite(versions=older) == f"{VARIANT} differs from before: onnxruntime 1.0 before, {number} now"
    assert "differs from before: other options" in rewrite()
    assert "differs from before" in rewrite(build={"request_sha256": "a"})


def test_an_engine_of_the_same_request_is_the_same_but_for_the_order_of_outputs(own_bundle: Path) -> None:
    manifest = Manifest.read(own_bundle)
    asked = manifest.variants[0].model_copy(update={"build": {"request_sha256": "a"}})
    before = manifest.model_copy(update={"variants": [asked]})
    changed = {name: entry.model_copy(update={"sha256": "0" * 64}) for name, entry in manifest.files.items()}
    after = before.model_copy(update={"files": changed})
    assert "built from the same request as before" in rebuild._compared(before, after, VARIANT)
    other = asked.model_copy(update={"build": {"request_sha256": "b"}})
    assert "differs" in rebuild._compared(before, after.model_copy(update={"variants": [other]}), VARIANT)


def test_files_are_shared_not_copied(own_bundle: Path) -> None:
    before = (own_bundle / "portable.onnx.data").stat().st_ino
    rebuild.rebuild(own_bundle)
    assert (own_bundle / "portable.onnx.data").stat().st_ino == before


def test_a_backend_the_profile_did_not_name_takes_its_usual_rank(own_bundle: Path) -> None:
    manifest = Manifest.read(own_bundle)
    assert manifest.config.engine.backends == ["onnxruntime"]
    other = manifest.variants[0].model_copy(update={"name": "plan", "backend": "tensorrt"})
    changed = rebuild.with_variant(manifest, other, own_bundle)
    assert changed.config.engine.backends == ["tensorrt", "onnxruntime"]


def refused(bundle: Path, error: type[BaseException], match: str | None, call: object) -> None:
    before = content(bundle)
    with pytest.raises(error, match=match):
        call()  # type: ignore[operator]
    assert content(bundle) == before
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_another_model_is_refused(own_bundle: Path) -> None:
    other = random_checkpoint(tiny_checkpoint().architecture, source="other")
    weights = {name: tensor * 1.001 for name, tensor in other.weights.items()}
    other = dataclasses.replace(other, weights=weights)
    refused(
        own_bundle,
        UsageError,
        r"holds tiny with weights \w+…, found other with weights \w+…",
        lambda: into(own_bundle, other),
    )


@pytest.mark.parametrize(
    "setting",
    [
        "image.tokens=100",
        "packing.max_images=4",
        "engine.openvino.max_images=4",
        "outputs=['pooled']",
        "gate.min_cosine=0.5",
    ],
)
def test_another_profile_is_refused_before_the_model_is_read(own_bundle: Path, setting: str) -> None:
    key = setting.partition("=")[0]
    with patch.object(rebuild, "read_checkpoint", side_effect=AssertionError):
        refused(
            own_bundle,
            UsageError,
            f"was built with {key} = ",
            lambda: rebuild.build_into(config(setting), "tiny", own_bundle),
        )


def test_a_stripped_bundle_is_refused(own_bundle: Path) -> None:
    path = own_bundle / FILE_NAME
    manifest = Manifest.read(own_bundle)
    files = {name: entry for name, entry in manifest.files.items() if name != "portable.onnx"}
    path.write_text(manifest.model_copy(update={"files": files}).to_json())
    refused(own_bundle, UsageError, r"has no portable\.onnx", lambda: rebuild.rebuild(own_bundle))


def test_a_changed_graph_is_refused(own_bundle: Path) -> None:
    (own_bundle / "portable.onnx").write_bytes(b"x")
    refused(own_bundle, BundleError, "portable.onnx: expected", lambda: rebuild.rebuild(own_bundle))


def test_a_missed_gate_leaves_the_bundle_as_it_was(own_bundle: Path) -> None:
    def failing(bundle: Path, variant: Variant, *rest: object) -> Variant:
        return variant.model_copy(update={"gate": Gate(status="failed", reason="it is wrong")})

    with patch.object(rebuild, "measured", failing):
        refused(own_bundle, GateError, "misses its gate: it is wrong", lambda: rebuild.rebuild(own_bundle))


def test_an_interruption_leaves_the_bundle_as_it_was(own_bundle: Path) -> None:
    def interrupt(step: str) -> None:
        if step.startswith("measuring"):
            raise KeyboardInterrupt

    refused(own_bundle, KeyboardInterrupt, None, lambda: rebuild.rebuild(own_bundle, report=interrupt))


def test_a_bundle_behind_a_link_is_changed_where_it_lies(own_bundle: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(own_bundle)
    shutil.rmtree(own_bundle / "variants")
    rebuild.rebuild(link)
    assert link.is_symlink()
    assert verify(own_bundle).passed
