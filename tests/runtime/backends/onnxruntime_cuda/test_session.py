"""The CUDA session, whose bindings are tested on the CPU, and what it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from naflex_deploy.compiler.backends.onnxruntime_cuda.lowering import rewrite
from naflex_deploy.compiler.export import input_specs, output_specs
from naflex_deploy.compiler.passes.graphs import read, write
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.backends import cannot_run, cuda_device, executed_by, open_session
from naflex_deploy.runtime.backends.cuda_device import Device
from naflex_deploy.runtime.backends.onnxruntime_cuda import provider as cuda_provider
from naflex_deploy.runtime.backends.onnxruntime_cuda import session as onnxruntime_cuda
from tests.support.engines import OUTPUTS, exported

HERE = Device("Test GPU", "sm89", 8 * 10**9, "13.0")


@pytest.fixture(scope="module")
def variant(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Variant]:
    """A graph whose attention a CPU can compute, where its weights lie, and its manifest entry."""
    folder = tmp_path_factory.mktemp("bundle")
    model = read(exported("dinov3").portable)
    rewrite(model, "rows", "fp32")
    model.stored = {}
    path = folder / "model.onnx"
    write(model, path, folder)
    graph = onnx.load(str(path), load_external_data=False)
    entry = Variant(
        name="onnxruntime-cuda-fp32",
        backend="onnxruntime-cuda",
        target="cuda",
        precision="fp32",
        model="model.onnx",
        budgets=[90],
        inputs=input_specs(graph),
        outputs=output_specs(graph),
        versions={"onnxruntime": "1.31.1"},
    )
    return folder, entry


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider and the bound memory are those of the CPU."""
    monkeypatch.setattr(cuda_provider, "no_machine", lambda: None)
    monkeypatch.setattr(cuda_device, "find", lambda: HERE)
    monkeypatch.setattr(onnxruntime_cuda, "PROVIDER", "CPUExecutionProvider")
    monkeypatch.setattr(onnxruntime_cuda, "providers", lambda tuning: ["CPUExecutionProvider"])
    monkeypatch.setattr(onnxruntime_cuda, "DEVICE", "cpu")


@pytest.mark.usefixtures("on_the_cpu")
def test_it_returns_what_the_reference_model_does(variant: tuple[Path, Variant]) -> None:
    session, model = open_session(*variant), exported("dinov3")
    for grids, tail in ((((3, 5),), 0), (((1, 1), (2, 7)), 4), (((3, 4), (5, 5), (1, 1), (2, 6)), 0)):
        pack = model.pack(*grids, tail=tail)
        found = session.run(pack, OUTPUTS)
        for output, reference in model.reference(pack).items():
            error = np.abs(found[output][: len(reference)] - reference).max()
            assert error < 1e-5 * np.abs(reference).max(), output


@pytest.mark.usefixtures("on_the_cpu")
def test_a_bound_pack_runs_again_and_its_outputs_can_stay(variant: tuple[Path, Variant]) -> None:
    session = onnxruntime_cuda.OnnxRuntimeCudaSession(variant[0] / "model.onnx", variant[1], variant[0])
    pack = exported("dinov3").pack((3, 3), (2, 2))
    wanted = session.run(pack, ("pooled", "tokens"))
    bound = session.bind(pack, ("tokens", "pooled"))
    for _ in range(2):
        bound.launch()
    for name, values in bound.fetch().items():
        np.testing.assert_array_equal(values, wanted[name])
    kept = session.run_on_device(pack, ("pooled",))
    np.testing.assert_array_equal(np.from_dlpack(kept["pooled"]), wanted["pooled"])


@pytest.mark.usefixtures("on_the_cpu")
def test_threads_share_a_session_without_mixing_packs(variant: tuple[Path, Variant]) -> None:
    session, model = open_session(*variant), exported("dinov3")
    packs = [model.pack((1 + i % 5, 7), (2, 1 + i % 9), seed=i) for i in range(12)]
    run: Callable[[Pack], np.ndarray] = lambda pack: np.asarray(session.run(pack, ("pooled",))["pooled"])  # noqa: E731
    alone = [run(pack) for pack in packs]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone, pool.map(run, packs), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("on_the_cpu")
def test_a_pack_above_the_gpus_memory_says_so(variant: tuple[Path, Variant], monkeypatch: pytest.MonkeyPatch) -> None:
    session, pack = open_session(*variant), exported("dinov3").pack((3, 3))
    for said, message in (
        (
            "[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 9",
            "does not have enough memory",
        ),
        ("CUBLAS failure 13\nand more", "does not run: CUBLAS failure 13"),
    ):

        def fail(self: object, binding: object, said: str = said) -> None:
            raise RuntimeError(said)

        monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", fail)
        with pytest.raises(IncompatibleError, match=message) as caught:
            session.run(pack, ("pooled",))
        assert (caught.value.code, "\n" in caught.value.message) == (4, False)


def test_the_provider_is_told_to_sum_in_float32_and_what_else_is_asked() -> None:
    (name, options), fallback = onnxruntime_cuda.providers({"sdpa_kernel": "19"})
    assert (name, fallback) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options["enable_skip_layer_norm_strict_mode"] == "1"
    assert (options["use_tf32"], options["sdpa_kernel"]) == ("0", "19")


def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: "there is no NVIDIA driver")


def too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: Device("V100", "sm70", 10**10, "13.0"))


def for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: HERE)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])


def without_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_provider, "no_machine", lambda: None)
    session = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: session)


def unknown_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Fatal error: com.microsoft:PackedMultiHeadAttention(-1) is not a registered function/op")

    monkeypatch.setattr(cuda_provider, "no_machine", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", fail)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without_driver, "cannot run here: there is no NVIDIA driver"),
        (too_old, r"needs sm75 or later, found sm70 \(V100\)"),
        (for_the_cpu, "the installed ONNX Runtime has no CUDA provider"),
        (without_libraries, "does not find the CUDA libraries"),
        (unknown_operator, "cannot load variant 'onnxruntime-cuda-fp32': Fatal error"),
    ],
)
def test_what_does_not_fit_is_refused(
    variant: tuple[Path, Variant], monkeypatch: pytest.MonkeyPatch, spoil: Callable[..., None], said: str
) -> None:
    spoil(monkeypatch)
    with pytest.raises(IncompatibleError, match=said) as caught:
        open_session(*variant)
    assert caught.value.code == 4
    assert caught.value.hint


def test_bfloat16_needs_ampere_and_kernels(variant: tuple[Path, Variant], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    other = variant[1].model_copy(update={"precision": "bf16"})
    for sm, said in (("sm75", "it needs bf16, which sm75"), ("sm80", None)):
        monkeypatch.setattr(cuda_device, "find", lambda sm=sm: Device("T4", sm, 10**10, "13.0"))
        assert said is None or said in (cannot_run(other) or "")
        assert (cannot_run(other) is None) == (said is None)
        assert cannot_run(variant[1]) is None
    for version, fits in (("1.23.2", False), ("1.24.0", True), ("2.0.0", True)):
        monkeypatch.setattr(ort, "__version__", version)
        said = f"attention in bf16 needs ONNX Runtime 1.24 or later, found {version}"
        assert cannot_run(other) == (None if fits else said)
        assert cannot_run(variant[1]) is None


def test_figures_name_the_gpu_they_were_taken_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: HERE)
    executed = executed_by("onnxruntime-cuda")
    assert (executed.runtime, executed.gpu) == (f"onnxruntime {ort.__version__}", str(HERE))
    assert executed_by("onnxruntime").gpu == ""


def test_asking_for_the_machine_does_not_load_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: "there is no NVIDIA driver")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cuda_provider.no_machine() == "there is no NVIDIA driver"
