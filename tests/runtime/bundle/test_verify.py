"""Verification measures on this machine and records the result."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import naflex_deploy as nd
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.files import sha256
from naflex_deploy.core.machine import cpu_name
from naflex_deploy.core.manifest import FILE_NAME, FileEntry, Gate, Manifest
from naflex_deploy.runtime.bundle.verify import verify
from tests.support.manifests import a_variant
from tests.support.tiny import VARIANT


def rewrite(bundle: Path, **changes: object) -> None:
    manifest = Manifest.read(bundle).model_copy(update=changes)
    (bundle / FILE_NAME).write_text(manifest.to_json())


def spoil_weights(bundle: Path) -> None:
    """Change an engine as a compiler's bug would: another result, and a manifest that agrees with the file."""
    manifest = Manifest.read(bundle)
    path = bundle / manifest.variants[0].model
    graph = onnx.load(path, load_external_data=False)
    onnx.external_data_helper.load_external_data_for_model(graph, str(bundle))
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array((values * np.float32(1.05)).astype(np.float32), tensor.name))
    path.with_name(f"{path.name}.data").unlink(missing_ok=True)
    onnx.save(graph, path)
    files = {name: entry for name, entry in manifest.files.items() if (bundle / name).exists()}
    files[manifest.variants[0].model] = FileEntry(sha256=sha256(path), size=path.stat().st_size)
    rewrite(bundle, files=files)


def test_it_fills_the_gate_and_writes_the_report(own_bundle: Path) -> None:
    variant = Manifest.read(own_bundle).variants[0]
    rewrite(own_bundle, variants=[variant.model_copy(update={"gate": Gate()})])

    verification = verify(own_bundle)

    assert verification.passed
    gate = verification.gates[VARIANT]
    assert gate.status == "passed"
    assert gate.min_cosine is not None
    assert gate.min_cosine > 0.99999
    assert gate.executed is not None
    assert gate.executed.cpu == cpu_name()
    assert Manifest.read(own_bundle).variants[0].gate == gate
    assert verification.report is not None
    assert verification.report.parent == own_bundle / "reports"
    report = json.loads(verification.report.read_text())
    assert report["gates"][VARIANT]["status"] == "passed"
    assert report["executed"]["cpu"] == cpu_name()
    assert sorted(path.name for path in own_bundle.rglob(".*")) == []


def test_it_changes_nothing_else_and_can_be_done_again(own_bundle: Path) -> None:
    before = Manifest.read(own_bundle)
    for _ in range(2):
        assert verify(own_bundle).passed
    after = Manifest.read(own_bundle)
    assert after.model_copy(update={"variants": before.variants}) == before
    assert nd.load(own_bundle).variant.name == VARIANT


def test_an_engine_that_computes_something_else_fails_and_is_not_loaded_any_more(own_bundle: Path) -> None:
    spoil_weights(own_bundle)
    verification = verify(own_bundle)
    assert not verification.passed
    assert verification.gates[VARIANT].status == "failed"
    assert "cosine" in verification.gates[VARIANT].reason
    with pytest.raises(IncompatibleError, match=r"it failed its gate: .*cosine"):
        nd.load(own_bundle)


def test_what_cannot_run_here_stays_unmeasured_with_the_reason(own_bundle: Path) -> None:
    here = Manifest.read(own_bundle).variants[0]
    elsewhere = Gate(status="passed", min_cosine=1.0)
    other = a_variant("plan", backend="of-the-future", gate=elsewhere)
    rewrite(own_bundle, variants=[other, here])
    verification = verify(own_bundle)
    assert verification.passed
    assert verification.gates["plan"].status == "unmeasured"
    assert "of-the-future" in verification.gates["plan"].reason
    assert Manifest.read(own_bundle).variant("plan").gate == elsewhere
    rewrite(own_bundle, variants=[other])
    assert not verify(own_bundle).passed


def test_an_engine_that_does_not_load_leaves_the_others_measured(own_bundle: Path) -> None:
    manifest = Manifest.read(own_bundle)
    here = manifest.variants[0]
    broken = a_variant("broken")
    path = own_bundle / broken.model
    path.parent.mkdir()
    unknown = onnx.helper.make_node("NotYetInvented", ["patches"], ["pooled"])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([unknown], "broken", [], [])), path)
    entry = FileEntry(sha256=sha256(path), size=path.stat().st_size)
    rewrite(own_bundle, variants=[broken, here], files={**manifest.files, broken.model: entry})
    gates = verify(own_bundle).gates
    assert (gates["broken"].status, gates[VARIANT].status) == ("unmeasured", "passed")
    assert "cannot load" in gates["broken"].reason


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_bundle_that_cannot_be_written_is_verified_all_the_same(
    own_bundle: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    # The error is simulated, because root may write everywhere.
    monkeypatch.setattr(os, "mkdir", Mock(side_effect=OSError(number, os.strerror(number))))
    before = (own_bundle / FILE_NAME).read_bytes()
    verification = verify(own_bundle)
    assert verification.passed
    assert verification.report is None
    assert (own_bundle / FILE_NAME).read_bytes() == before
    assert not (own_bundle / "reports").exists()
