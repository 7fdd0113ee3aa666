"""The TensorRT session, driven through its states by a fake TensorRT on the CPU, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.compiler.backends.tensorrt.lowering import write_lowered
from naflex_deploy.core.errors import BundleError, IncompatibleError, MissingExtraError, UsageError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.backends import cannot_run, cuda_device, executed_by, open_session
from naflex_deploy.runtime.backends.cuda_device import Device
from naflex_deploy.runtime.backends.tensorrt import compatibility as tensorrt_compatibility
from naflex_deploy.runtime.backends.tensorrt import library as tensorrt_library
from naflex_deploy.runtime.backends.tensorrt.plan import TARGETS, PlanHeader
from naflex_deploy.runtime.backends.tensorrt.session import LANES, TensorRTSession
from tests.support.engines import OUTPUTS, exported
from tests.support.fake_gpu import REAL, Machine, plan_bytes

PROFILES = {
    "segment": [{"tokens": 40, "images": 5}, {"tokens": 90, "images": 5}],
    "rows": [
        {"tokens": 40, "images": 5, "rows": 1, "row_tokens": 40},
        {"tokens": 90, "images": 5, "rows": 9, "row_tokens": 20},
        {"tokens": 90, "images": 5, "rows": 5, "row_tokens": 40},
    ],
}

Prepare = Callable[..., tuple[Path, Variant, Machine]]


@pytest.fixture
def prepare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Prepare:
    """A plan, its manifest entry and the machine it would run on."""

    def make(name: str = "siglip2", form: str = "segment") -> tuple[Path, Variant, Machine]:
        graph = tmp_path / "lowered.onnx"
        inputs, outputs = write_lowered(exported(name).portable, graph, form, "fp32")
        profiles = PROFILES[form]
        plan = tmp_path / "engine.plan"
        plan.write_bytes(plan_bytes())
        variant = Variant(
            name="tensorrt-rtx1.7-sm89-fp32",
            backend="tensorrt-rtx",
            target="sm89",
            precision="fp32",
            model="engine.plan",
            budgets=[40, 90],
            profiles=profiles,
            inputs=inputs,
            outputs=outputs,
            versions={"tensorrt-rtx": "1.7.1.116"},
            build={"weights_bytes": 10**6, "profiles": [{"activation_bytes": 10**6}]},
        )
        machine = Machine(graph, len(profiles))
        monkeypatch.setitem(sys.modules, "tensorrt_rtx", machine.tensorrt())
        monkeypatch.setitem(sys.modules, "cuda.core", machine.cuda_core())
        monkeypatch.setitem(sys.modules, "cuda.core.utils", machine.utils())
        monkeypatch.setattr(tensorrt_library, "installed", lambda backend: "1.7.1.116")
        monkeypatch.setattr(tensorrt_library, "cuda_needed", lambda backend: 13)
        monkeypatch.setattr(cuda_device, "find", lambda: Device("Test GPU", "sm89", 8 * 10**9, "13.0"))
        return plan, variant, machine

    return make


@pytest.mark.parametrize("form", PROFILES)
@pytest.mark.parametrize("name", ["siglip2", "dinov3"])
def test_it_returns_what_the_reference_model_does(prepare: Prepare, name: str, form: str) -> None:
    plan, variant, _ = prepare(name, form)
    model = exported(name)
    session = TensorRTSession(plan, variant)
    for grids, tail in ((((3, 5),), 0), (((1, 1), (2, 7)), 4), (((3, 4), (5, 5), (1, 1), (2, 6)), 0), (((5, 7),), 8)):
        pack = model.pack(*grids, tail=tail)
        found = session.run(pack, OUTPUTS)
        for output, reference in model.reference(pack).items():
            assert len(found[output]) == (pack.tokens if output == "tokens" else pack.images)
            assert np.abs(found[output][: len(reference)] - reference).max() < 1e-5 * np.abs(reference).max(), output


def test_threads_share_a_session_without_mixing_packs(prepare: Prepare) -> None:
    plan, variant, _ = prepare()
    model = exported("siglip2")
    session = TensorRTSession(plan, variant)
    packs = [model.pack((1 + i % 5, 7), (2, 1 + i % 9), seed=i) for i in range(24)]
    alone = [session.run(pack, ("pooled",))["pooled"] for pack in packs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda pack: session.run(pack, ("pooled",))["pooled"], packs))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_profile_is_captured_once_a_lane_and_launched_after_what_computes(prepare: Prepare) -> None:
    plan, variant, machine = prepare()
    session = TensorRTSession(plan, variant)
    small, large = exported("siglip2").pack((3, 3)), exported("siglip2").pack((6, 9))
    machine.events.clear()
    for pack in (small, small, large, large, small, small):
        session.run(pack, ("pooled",))
    assert machine.events.count("capture") == 2 * LANES
    assert machine.events.count("launch") == 6
    assert machine.events[:7] == ["current", "enqueue 0", "sync", "capture", "launch", "record", "sync"]
    assert machine.events.count("wait") == 5
    assert machine.events[-5:] == ["current", "wait", "launch", "record", "sync"]
    assert machine.host_code_allowed is False


def test_without_capture_it_enqueues(prepare: Prepare) -> None:
    plan, variant, machine = prepare()
    machine.capturable = False
    session, pack = TensorRTSession(plan, variant), exported("siglip2").pack((3, 3))
    found = session.run(pack, ("pooled",))["pooled"]
    assert np.allclose(found, exported("siglip2").reference(pack)["pooled"], atol=1e-4)
    assert "launch" not in machine.events


@pytest.mark.parametrize("call", ["set_optimization_profile_async", "set_input_shape", "set_tensor_address"])
def test_a_call_that_the_library_refuses_is_not_taken_for_done(prepare: Prepare, call: str) -> None:
    plan, variant, machine = prepare()
    machine.refusing.add(call)
    with pytest.raises(IncompatibleError, match=r"variant 'tensorrt-rtx1\.7-sm89-fp32' does not run"):
        TensorRTSession(plan, variant).run(exported("siglip2").pack((3, 3)), ("pooled",))


def test_a_capture_that_fails_leaves_its_lane_usable(prepare: Prepare) -> None:
    plan, variant, machine = prepare()
    session, pack = TensorRTSession(plan, variant), exported("siglip2").pack((3, 3))
    machine.refusing.add("capture")
    for _ in range(LANES):
        with pytest.raises(IncompatibleError, match="does not run"):
            session.run(pack, ("pooled",))
    machine.refusing.clear()
    found = session.run(pack, ("pooled",))["pooled"]
    assert np.allclose(found, exported("siglip2").reference(pack)["pooled"], atol=1e-4)


@pytest.mark.parametrize("when", ["loading", "running"])
def test_memory_that_other_work_has_taken_is_told_from_a_fault(prepare: Prepare, when: str) -> None:
    plan, variant, machine = prepare()
    session = None if when == "loading" else TensorRTSession(plan, variant)
    machine.free_memory = 100
    with pytest.raises(
        IncompatibleError, match=r"needs 0\.0 GB of GPU memory, which is not free while other work runs"
    ) as caught:
        (session or TensorRTSession(plan, variant)).run_on_device(exported("siglip2").pack((3, 3)), ("tokens",))
    assert caught.value.code == 4


def test_outputs_can_stay_on_the_device_and_are_not_overwritten(prepare: Prepare) -> None:
    plan, variant, _ = prepare()
    model = exported("siglip2")
    session = TensorRTSession(plan, variant)
    packs = [model.pack((3, 3), (2, 2), seed=seed) for seed in range(4)]
    kept = [session.run_on_device(pack, ("tokens", "pooled")) for pack in packs]
    for pack, found in zip(packs, kept, strict=True):
        np.testing.assert_array_equal(np.from_dlpack(found["tokens"]), session.run(pack, ("tokens",))["tokens"])
        assert np.from_dlpack(found["pooled"]).shape == (2, 64)


def test_a_pack_above_every_budget_is_refused(prepare: Prepare) -> None:
    plan, variant, _ = prepare(form="rows")
    session = TensorRTSession(plan, variant)
    with pytest.raises(UsageError, match="a pack of 81 tokens with 1 images of up to 81 tokens"):
        session.run(exported("siglip2").pack((9, 9)), ("pooled",))


@pytest.mark.parametrize("name", REAL)
def test_every_name_called_exists_in_the_libraries(name: str) -> None:
    import cuda.core
    import cuda.core.graph
    import cuda.core.utils
    import tensorrt_rtx

    holders = (tensorrt_rtx, cuda.core, cuda.core.graph, cuda.core.utils)
    (real,) = {getattr(holder, name) for holder in holders if hasattr(holder, name)}
    public = [attribute for attribute in vars(REAL[name]) if not attribute.startswith("_")]
    instance = {"Runtime": ["engine_host_code_allowed"], "ICudaEngine": ["num_io_tensors", "num_optimization_profiles"]}
    for attribute in (*public, *instance.get(name, [])):
        assert hasattr(real, attribute), attribute
    assert hasattr(tensorrt_rtx.ExecutionContextAllocationStrategy, "USER_MANAGED")
    assert hasattr(tensorrt_rtx.DynamicShapesKernelSpecializationStrategy, "EAGER")
    assert tensorrt_rtx.ILogger.Severity.ERROR > tensorrt_rtx.ILogger.Severity.INTERNAL_ERROR


def no_gpu(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: "there is no NVIDIA driver")


def other_gpu(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: Device("H200", "sm90", 10**11, "13.0"))


def small_gpu(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: Device("Tiny", "sm89", 10**6, "13.0"))


def old_driver(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: Device("Test GPU", "sm89", 8 * 10**9, "12.9"))


def other_version(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    monkeypatch.setattr(tensorrt_library, "installed", lambda backend: "1.6.0.1")


def not_installed(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    monkeypatch.setattr(tensorrt_library, "installed", lambda backend: None)


def truncated(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:80])


def empty(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    plan.write_bytes(b"")


def foreign(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    plan.write_bytes(b"ftrt" + bytes(200))


def rebuilt_by_another(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    plan.write_bytes(plan_bytes("1.8.0.2"))


def rebuilt_for_another(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    plan.write_bytes(plan_bytes(targets=("sm86", "sm120")))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_gpu, "there is no NVIDIA driver"),
        (old_driver, "was built for CUDA 13, found a driver for CUDA 12.9 .*error 35"),
        (other_gpu, r"built for sm89, found sm90 \(H200\)"),
        (small_gpu, r"needs 0.0 GB of GPU memory, found 0.0 GB \(Tiny\)"),
        (other_version, r"needs TensorRT-RTX 1.7.1.116, found 1.6.0.1"),
        (not_installed, "TensorRT-RTX is not installed"),
        (truncated, "expected a plan of 100 bytes, found 80"),
        (empty, "found an empty file"),
        (foreign, "expected a TensorRT-RTX plan, found a TensorRT plan"),
        (rebuilt_by_another, r"expected a plan of TensorRT-RTX 1.7.1.116, found one of 1.8.0.2"),
        (rebuilt_for_another, r"expected a plan for sm89, found one for sm86, sm120"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_deserialised(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., None], said: str
) -> None:
    plan, variant, machine = prepare()
    spoil(monkeypatch, plan)
    with pytest.raises(IncompatibleError, match=said) as caught:
        open_session(plan.parent, variant)
    assert caught.value.code == 4
    assert "bundle rebuild" in caught.value.hint or isinstance(caught.value, BundleError)
    assert machine.deserialized == 0


def test_a_plan_of_the_other_library_is_refused(prepare: Prepare) -> None:
    plan, variant, machine = prepare()
    other = variant.model_copy(update={"backend": "tensorrt", "versions": {"tensorrt": "1.7.1.116"}})
    for data, said in ((plan.read_bytes(), "found a TensorRT-RTX plan"), (b"", "found an empty file")):
        plan.write_bytes(data)
        with pytest.raises(IncompatibleError, match=f"expected a TensorRT plan, {said}"):
            open_session(plan.parent, other)
    assert machine.deserialized == 0


def test_the_cuda_that_a_library_was_made_for_is_told_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tensorrt_library.cuda_needed("tensorrt-rtx") == 13
    assert tensorrt_library.cuda_needed("tensorrt") is None
    monkeypatch.setattr(cuda_device, "find", lambda: Device("A10", "sm86", 10**10, "13.0"))
    assert tensorrt_compatibility.no_machine("tensorrt-rtx") is None
    monkeypatch.setattr(cuda_device, "find", lambda: Device("A10", "sm86", 10**10, "12.9"))
    assert "update the driver" in (tensorrt_compatibility.no_machine("tensorrt-rtx") or "")


def test_a_plan_that_does_not_load_says_why(prepare: Prepare) -> None:
    plan, variant, machine = prepare()
    machine.broken = True
    with pytest.raises(IncompatibleError, match=r"does not load .*: the plan is broken"):
        open_session(plan.parent, variant)


def test_a_plan_of_another_model_is_refused(prepare: Prepare) -> None:
    plan, variant, _ = prepare()
    other = variant.model_copy(update={"outputs": variant.outputs[:1]})
    with pytest.raises(IncompatibleError, match=r"expected inputs and outputs .* found .*logits"):
        open_session(plan.parent, other)


def test_without_cuda_core_it_says_what_to_install(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, variant, _ = prepare()
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(MissingExtraError, match=r"'cuda\.core', which is not installed") as caught:
        open_session(plan.parent, variant)
    assert (caught.value.code, caught.value.hint) == (2, f"pip install 'naflex-deploy[{variant.backend}]'")


def test_on_this_machine_a_variant_tells_the_truth(prepare: Prepare) -> None:
    _, variant, _ = prepare()
    assert cannot_run(variant) is None
    assert cannot_run(variant.model_copy(update={"target": "ampere+"})) is None
    assert cannot_run(variant.model_copy(update={"backend": "abacus"})) == "this version has no backend 'abacus'"
    executed = executed_by("tensorrt-rtx")
    assert (executed.runtime, executed.gpu) == (
        "tensorrt-rtx 1.7.1.116",
        "Test GPU (sm89, 7 GiB, driver for CUDA 13.0)",
    )


@given(data=st.binary(max_size=200))
def test_a_header_of_any_bytes_is_read_or_refused(data: bytes) -> None:
    for candidate in (data, b"vtrt" + data):
        try:
            header = PlanHeader.parse(candidate, "plan")
        except IncompatibleError:
            continue
        assert set(header.targets) <= set(TARGETS)


@given(st.sets(st.sampled_from(sorted(TARGETS))), st.lists(st.integers(0, 255), min_size=4, max_size=4))
def test_a_header_is_read_back(targets: set[str], numbers: list[int]) -> None:
    version = ".".join(map(str, numbers))
    header = PlanHeader.parse(plan_bytes(version, tuple(targets), 300), "plan")
    assert (header.size, header.version, set(header.targets)) == (300, version, targets)
