"""A build leaves a complete bundle at its path, or nothing."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest

from naflex_deploy.compiler import pipeline
from naflex_deploy.core.errors import CheckpointError, GateError, MissingExtraError, OutputError, UsageError
from naflex_deploy.core.files import sha256
from naflex_deploy.core.machine import cpu_name
from naflex_deploy.core.manifest import FILE_NAME, Manifest
from naflex_deploy.runtime.bundle.golden import Golden
from naflex_deploy.runtime.bundle.verify import verify
from tests.support.tiny import VARIANT, WIDTH, build_tiny, tiny_checkpoint, tiny_config

pytestmark = pytest.mark.usefixtures("_exported_before")

BUILD = """
import os, signal, sys
from pathlib import Path
from naflex_deploy.compiler import pipeline
from tests.support.tiny import build_tiny, copied
pipeline.export = copied(Path(sys.argv[2]))
def kill(step):
    if step.startswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
build_tiny(Path(sys.argv[1]), report=kill)
"""
"""A build in a process of its own, killed at the step whose line begins as told."""


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_a_build_that_lacks_the_tokenizer_of_texts_says_so_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    steps: list[str] = []
    with pytest.raises(MissingExtraError, match="tokenizers"):
        pipeline.build_bundle(tiny_config(), "tiny", tmp_path / "bundle", text=True, report=steps.append)
    assert (steps, names(tmp_path)) == ([], [])


def test_the_manifest_says_what_was_built(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    checkpoint, config = tiny_checkpoint(), tiny_config()
    assert manifest.model.source == "tiny"
    assert manifest.model.digest == checkpoint.digest()
    assert manifest.model.architecture["width"] == WIDTH
    assert manifest.model.parameters == sum(tensor.numel() for tensor in checkpoint.weights.values())
    assert manifest.preprocessing == checkpoint.preprocessing
    assert (manifest.config, manifest.origins) == (config.profile, config.origins)
    assert [spec.name for spec in manifest.outputs] == ["tokens", "pooled", "logits"]
    (variant,) = manifest.variants
    assert (variant.name, variant.precision, variant.budgets) == (VARIANT, "fp32", [128, 512])
    assert variant.gate.status == "passed"
    assert variant.gate.executed is not None
    assert variant.gate.executed.cpu == cpu_name()
    assert variant.build["seconds"] > 0
    assert variant.build["peak_memory_bytes"] > variant.build["run_peak_memory_bytes"] > 2**20


def test_every_file_is_listed_with_its_digest_and_readable_by_others(bundle: Path) -> None:
    listed = Manifest.read(bundle).files
    written = {str(path.relative_to(bundle)): path for path in bundle.rglob("*") if path.is_file()}
    assert sorted(listed) == sorted(set(written) - {FILE_NAME})
    for name, entry in listed.items():
        assert (entry.sha256, entry.size) == (sha256(written[name]), written[name].stat().st_size)
    umask = os.umask(0)
    os.umask(umask)
    for path in written.values():
        assert path.stat().st_mode & 0o444 == 0o444 & ~umask, path


def test_golden_packs_cover_what_goes_wrong_in_ports(bundle: Path) -> None:
    packs = [item.pack for item in Golden.read(bundle / "golden.npz").packs]
    grids = [tuple(grid) for pack in packs for grid in pack.grid_hw.tolist()]
    assert len(packs) == 16
    assert any(pack.tokens > pack.useful_tokens for pack in packs)
    assert any(pack.tokens == pack.useful_tokens for pack in packs)
    assert {1} < {pack.images for pack in packs}
    assert any(height == 1 < width for height, width in grids)
    assert any(width == 1 < height for height, width in grids)
    assert max(height * width for height, width in grids) >= 180  # close to the largest number allowed in an image


def test_builds_differ_in_time_alone(bundle: Path, tmp_path: Path) -> None:
    """Also in another process, where sets have another order, which differs here from run to run. A single thread
    keeps the order of sums the same."""
    command = [sys.executable, "-c", BUILD, str(tmp_path / "again"), str(bundle), "never"]
    subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}, check=True)
    assert Manifest.read(tmp_path / "again").files == Manifest.read(bundle).files


def test_steps_are_reported(tmp_path: Path) -> None:
    steps: list[str] = []
    build_tiny(tmp_path / "out", report=steps.append)
    assert [step.split()[0] for step in steps] == ["reading", "exporting", "running", "lowering", "measuring"]


def spoil_references(monkeypatch: pytest.MonkeyPatch) -> None:
    make = pipeline.make_golden

    def spoiled(*args: object, **options: object) -> Golden:
        golden = make(*args, **options)  # type: ignore[arg-type]
        for item in golden.packs:
            for values in item.reference.values():
                values += np.float32(1e-3)
        return golden

    monkeypatch.setattr(pipeline, "make_golden", spoiled)


def test_a_missed_gate_leaves_the_rejected_bundle_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        spoil_references(patched)
        for _ in range(2):  # The second build replaces the first one's rejected bundle.
            with pytest.raises(GateError, match=r"misses its gate: .* what was built is at .*out\.rejected") as caught:
                build_tiny(tmp_path / "out")
    assert caught.value.code == 3
    assert names(tmp_path) == ["out.rejected"]
    gate = Manifest.read(tmp_path / "out.rejected").variants[0].gate
    assert gate.status == "failed"
    assert gate.reason in caught.value.message
    assert not verify(tmp_path / "out.rejected").passed
    build_tiny(tmp_path / "out")
    assert names(tmp_path) == ["out", "out.rejected"]


def test_a_missed_gate_leaves_the_bundle_that_force_would_have_replaced(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (own_bundle / FILE_NAME).read_bytes()
    spoil_references(monkeypatch)
    with pytest.raises(GateError):
        build_tiny(own_bundle, force=True)
    assert (own_bundle / FILE_NAME).read_bytes() == before


def test_an_existing_bundle_is_refused_before_any_work_and_replaced_by_force(own_bundle: Path) -> None:
    steps: list[str] = []
    (own_bundle / "note").write_text("mine")
    with pytest.raises(OutputError, match="exists already") as caught:
        build_tiny(own_bundle, report=steps.append)
    assert (caught.value.code, steps, (own_bundle / "note").read_text()) == (2, [], "mine")
    build_tiny(own_bundle, force=True)
    assert not (own_bundle / "note").exists()
    assert names(own_bundle.parent) == ["own"]


def test_force_replaces_nothing_but_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1").write_text("…")
    with pytest.raises(OutputError, match="it was not made by this command, and --force does not replace it"):
        build_tiny(tmp_path / "thesis", force=True)
    assert names(tmp_path / "thesis") == ["chapter-1"]


def test_a_killed_build_leaves_no_bundle_and_the_next_sweeps(bundle: Path, tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", BUILD, str(tmp_path / "out"), str(bundle), "measuring"])
    assert run.returncode == -signal.SIGKILL
    lock, left = names(tmp_path)
    assert lock == ".out.lock"
    assert left.startswith(".out.partial-")
    assert len(names(tmp_path / left)) > 2  # It was killed in the middle.
    build_tiny(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert verify(tmp_path / "out").passed


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limit the size of files, so that every further write fails as on a full disk, without mounting one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_cut_short_anywhere_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    sizes = sorted(entry.size for entry in Manifest.read(bundle).files.values())
    for size in [1000, *(size - 1 for size in sizes[1:])]:
        with largest_file(size), pytest.raises(OutputError, match=r"cannot write .*out: "):
            build_tiny(tmp_path / "out")
        assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["export", "make_golden", "measure"])
def test_a_full_disk_at_any_step_is_explained_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(pipeline, step, Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OutputError, match="the disk is full"):
        build_tiny(tmp_path / "out")
    assert names(tmp_path) == []


def test_a_checkpoint_that_cannot_be_read_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    for model in ("random:siglip2-bas", str(tmp_path / "model"), str(tmp_path / "nothing")):
        with pytest.raises(CheckpointError):
            pipeline.build_bundle(tiny_config(), model, tmp_path / "out")
    assert names(tmp_path) == ["model"]


def test_outputs_that_the_model_does_not_have_are_refused() -> None:
    checkpoint = tiny_checkpoint()
    profile = tiny_config().profile

    def requested(*outputs: str, **options: Any) -> tuple[str, ...]:
        architecture = dataclasses.replace(checkpoint.architecture, **options)
        return pipeline.requested_outputs(
            profile.model_copy(update={"outputs": list(outputs)}),
            dataclasses.replace(checkpoint, architecture=architecture),
        )

    assert requested("pooled") == ("pooled", "logits")
    assert requested("logits", "tokens:-2") == ("logits", "tokens:-2")
    assert requested("tokens", classes=0) == ("tokens",)
    for missing, options in (("logits", {"classes": 0}), ("tokens:-3", {}), ("tokens:-3:norm", {})):
        with pytest.raises(UsageError, match=f"the model has no output '{missing}'"):
            requested(missing, **options)
    with pytest.raises(UsageError, match="the model has no output 'pooled'"):
        requested("pooled", pooling="none", classes=0)
    assert requested("tokens:-2:norm") == ("tokens:-2:norm", "logits")
    with pytest.raises(UsageError, match="the model has no output 'tokens:-2:norm'"):
        requested("tokens:-2:norm", final_norm="pooled")
