"""Engines really built by TensorRT-RTX without a GPU: the published matrix, the build log, every refusal."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from benchmarks.tensorrt.matrix import (
    BUDGETS,
    COLUMNS,
    DEFAULT,
    PAGE,
    PRECISIONS,
    Cell,
    measure,
    published,
    published_towers,
    tower_cells,
)
from naflex_deploy.compiler.backends.registry import choose
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.backends.tensorrt import lowering as tensorrt
from naflex_deploy.compiler.backends.tensorrt.attention import choose_form
from naflex_deploy.compiler.backends.tensorrt.lowering import make_request, timing_cache, write_lowered
from naflex_deploy.compiler.backends.tensorrt.plugins import registration
from naflex_deploy.compiler.backends.tensorrt.process import Built, Request, refusal, run, run_all
from naflex_deploy.compiler.backends.tensorrt.quantize import KINDS
from naflex_deploy.compiler.quantize import search
from naflex_deploy.compiler.quantize.prepare import prepare
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import IncompatibleError, UsageError
from naflex_deploy.core.files import sha256
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends import cuda_device, find
from naflex_deploy.runtime.backends.tensorrt import library as tensorrt_library
from naflex_deploy.runtime.backends.tensorrt.plan import PlanHeader
from naflex_deploy.runtime.results.figures import cosine
from tests.support.calibrations import observed
from tests.support.engines import exported
from tests.support.packs import random_images


def profile(*settings: str, budgets: tuple[int, ...] = (64, 128)) -> Profile:
    sizes = (f"packing.budgets={list(budgets)}", "packing.max_images=8", "image.tokens=64")
    targets = 'engine.tensorrt.targets=["sm89", "sm86"]'
    return resolve("doc-ocr", settings=(*sizes, targets, *settings)).profile


def task(folder: Path, *settings: str, precision: str = "fp16", budgets: tuple[int, ...] = (64, 128)) -> Task:
    return Task(exported("siglip2").portable, folder / "variants", profile(*settings, budgets=budgets), precision)


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["sample", "whole"])
def test_the_published_matrix_is_what_builds(whole: bool) -> None:
    """Every precision on every target in the segment form, the other forms and three budgets on some.

    The sample has every form, precision and number of budgets with every outcome, every target in fp16, and a tower.
    """
    cells = [Cell("segment", precision, target, 1) for precision in PRECISIONS for target in COLUMNS]
    cells += [Cell("rows", precision, target, 1) for precision in PRECISIONS for target in ("sm75", DEFAULT)]
    cells += [Cell("packed", precision, DEFAULT, 1) for precision in PRECISIONS]
    cells += [Cell(form, "bf16", DEFAULT, len(BUDGETS)) for form in ("segment", "rows")]
    text = PAGE.read_text(encoding="utf-8")
    page, towers = published(text), published_towers(text)
    expected = {cell: page[cell.form, cell.precision, cell.target] for cell in cells}
    every = {cell: towers[cell.model, cell.form, cell.precision] for cell in tower_cells()}
    if not whole:
        kinds = {(cell.form, cell.precision, cell.budgets, expected[cell]): cell for cell in reversed(cells)}
        targets = {cell.target: cell for cell in cells if (cell.form, cell.precision) == ("segment", "fp16")}
        expected = {
            cell: expected[cell] for cell in {**dict.fromkeys(kinds.values()), **dict.fromkeys(targets.values())}
        }
        tower = Cell("segment", "int8", DEFAULT, len(BUDGETS), "Isaac")
        del expected[Cell("segment", "bf16", DEFAULT, len(BUDGETS))]
        every = {tower: every[tower]}
    expected |= every
    assert dict(measure(list(expected))) == expected


def test_an_engine_comes_with_what_its_builder_told(tmp_path: Path) -> None:
    steps: list[str] = []
    ballast = bytearray(1_500_000_000)  # memory of this process, not of the builder
    ballast[::4096] = b"1" * len(ballast[::4096])
    given = task(tmp_path, budgets=(64, 8192))
    variant = tensorrt.lower("tensorrt-rtx", Task(**{**vars(given), "report": steps.append}))
    assert variant.name.startswith("tensorrt-rtx1.")
    assert variant.name.endswith("-sm86+sm89-fp16")
    assert variant.gate.status == "unmeasured"
    assert variant.profiles == [
        {"tokens": 64, "images": 8, "rows": 1, "row_tokens": 64},
        {"tokens": 8192, "images": 8, "rows": 257, "row_tokens": 64},
    ]
    small, large = variant.build["profiles"]
    assert 200e6 < variant.build["builder_peak_memory_bytes"] < 1.2e9
    assert small["fused_attentions"] == large["fused_attentions"] == 2
    assert set(small["datatypes"]) <= {"Half", "Float", "Int32", "Bool", "none"}
    assert small["datatypes"]["Half"] > 10
    assert 0 < small["activation_bytes"] < large["activation_bytes"] < 100e6
    weights = sum(tensor.numel() for tensor in exported("siglip2").checkpoint.weights.values())
    assert 1.5 * weights < variant.build["weights_bytes"] < 3 * weights
    header = PlanHeader.read(tmp_path / variant.model)
    assert (header.version, header.targets) == (variant.versions["tensorrt-rtx"], ("sm86", "sm89"))
    assert any("2 optimization profiles, rows attention" in step for step in steps)
    assert "Building engine" in " ".join(steps)


def test_a_rebuild_holds_the_same(tmp_path: Path) -> None:
    """Digest of what was asked for, figures, and every byte, but for the order in which outputs are listed."""
    told, plans = [], []
    for name in ("first", "second-in-a-folder-of-another-length"):
        variant = tensorrt.lower("tensorrt-rtx", task(tmp_path / name))
        told.append({key: value for key, value in variant.build.items() if key != "builder_peak_memory_bytes"})
        plans.append(np.fromfile(tmp_path / name / variant.model, np.uint8))
    assert told[0] == told[1]
    assert len(plans[0]) == len(plans[1])
    assert (plans[0] != plans[1]).sum() < 500
    np.testing.assert_array_equal(*(np.bincount(plan, minlength=256) for plan in plans))


def test_a_plan_of_one_output_is_the_same_to_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, plan = tmp_path / "lowered.onnx", tmp_path / "engine.plan"
    inputs, _ = write_lowered(exported("siglip2").portable, graph, "segment", "fp16")
    model = onnx.load(str(graph), load_external_data=False)
    del model.graph.output[1:]
    onnx.save(model, str(graph))
    request = make_request("tensorrt-rtx", graph, plan, inputs, [{"tokens": 64, "images": 8}], ("sm86", "sm89"), "fp16")
    digests = set()
    for length in (0, 500, 5000):  # length of the environment, which shifts the memory behind it
        monkeypatch.setenv("PADDING", "x" * length)
        run(request)
        digests.add(sha256(plan))
    assert len(digests) == 1


def test_what_is_asked_for_has_a_digest(tmp_path: Path) -> None:
    digests = []
    for folder, precision in (("first", "fp16"), ("elsewhere", "fp16"), ("first", "bf16")):
        graph = tmp_path / folder / "lowered.onnx"
        graph.parent.mkdir(exist_ok=True)
        inputs, _ = write_lowered(exported("siglip2").portable, graph, "segment", precision)
        sizes = [{"tokens": 64, "images": 8}]
        digests.append(make_request("tensorrt-rtx", graph, graph, inputs, sizes, ("sm86",), precision).digest("1.7"))
    assert digests[0] == digests[1] != digests[2]
    request = make_request("tensorrt-rtx", graph, graph, inputs, sizes, ("sm86",), precision)
    others = [dataclasses.replace(request, targets=()), dataclasses.replace(request, profiles=[])]
    assert len({*digests, request.digest("1.8"), *(other.digest("1.7") for other in others)}) == 5


def test_a_timing_cache_belongs_to_library_target_and_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {timing_cache("tensorrt", target) for target in ("sm89", "sm90")}
    monkeypatch.setattr(tensorrt_library, "installed", lambda backend: "11.4.0")
    paths.add(timing_cache("tensorrt", "sm90"))
    monkeypatch.setattr(cuda_device, "find", lambda: cuda_device.Device("H200", "sm90", 1, "13.0"))
    paths.add(timing_cache("tensorrt", "sm90"))
    assert len(paths) == 4
    graph = tmp_path / "lowered.onnx"
    inputs, _ = write_lowered(exported("siglip2").portable, graph, "segment", "fp16")
    cache = tmp_path / "new" / "x.cache"
    monkeypatch.undo()
    run(make_request("tensorrt-rtx", graph, graph, inputs, [{"tokens": 64, "images": 8}], (), "fp16", cache))
    assert cache.stat().st_size > 0


@pytest.mark.parametrize(
    ("settings", "precision", "said"),
    [
        (('engine.tensorrt.targets=["sm90"]',), "fp16", r"TensorRT-RTX has no sm90, expected some of sm75, sm80"),
        (('engine.tensorrt.targets=["sm75", "sm86"]',), "bf16", "sm75 has no bf16"),
        (('engine.tensorrt.targets=["sm75"]',), "fp32", "sm75 has no float32 matrix product"),
        (("engine.memory_limit=1000",), "fp16", "budget 64 needs .* MB, engine.memory_limit is 0 MB"),
    ],
)
def test_what_the_library_does_not_build_is_refused_in_a_line(
    tmp_path: Path, settings: tuple[str, ...], precision: str, said: str
) -> None:
    with pytest.raises(IncompatibleError, match=said) as caught:
        tensorrt.lower("tensorrt-rtx", task(tmp_path, *settings, precision=precision, budgets=(64,)))
    assert caught.value.code == 4
    assert caught.value.hint
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (('engine.tensorrt.targets=["sm90"]',), "TensorRT-RTX has no sm90, expected some of sm75"),
        (('engine.tensorrt.targets=["sm75", "sm86"]', "engine.precision=bf16"), "sm75 has no bf16, expected sm80"),
        (('engine.tensorrt.targets=["sm75"]', "engine.precision=fp32"), "sm75 has no fp32, expected sm80 or later"),
        (('engine.tensorrt.targets=["sm80", "sm86", "sm89"]', "engine.precision=fp8"), "sm80, sm86 has no fp8"),
        (("engine.tensorrt.attention=plugin",), "plugins need TensorRT 10.16 or later, found tensorrt-rtx"),
    ],
)
def test_what_is_known_not_to_build_is_refused_before_anything_is_made(settings: tuple[str, ...], said: str) -> None:
    with pytest.raises(IncompatibleError, match=said) as caught:
        choose(resolve("doc-ocr", settings=('engine.backends=["tensorrt-rtx"]', *settings)).profile)
    assert caught.value.code == 4
    assert caught.value.hint


def test_packed_attention_falls_back_and_the_reason_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_form("tensorrt", "11.4.0", (1024,)) == ("packed", "segment")
    assert choose_form("tensorrt", "10.16.1", (1024, 16384)) == ("rows",)
    assert choose_form("tensorrt-rtx", "1.7.1", (1024, 4096)) == ("segment",)
    assert choose_form("tensorrt-rtx", "1.7.1", (1024, 4096), "rows") == ("rows",)
    assert choose_form("tensorrt", "10.16.0", (1024,), "plugin") == ("plugin",)
    monkeypatch.setattr(tensorrt, "choose_form", lambda *_: ("packed", "segment"))
    variant = tensorrt.lower("tensorrt-rtx", task(tmp_path, budgets=(64,)))
    assert variant.passes[0]["form"] == "packed"
    assert "no fused kernel for packed" in variant.passes[0]["refused"]
    assert variant.passes[1] == {"pass": "attention", "form": "segment"}


@pytest.mark.parametrize(("backend", "version"), [("tensorrt", "10.15.1"), ("tensorrt-rtx", "1.7.1.116")])
def test_plugins_need_a_library_that_takes_them(backend: str, version: str) -> None:
    with pytest.raises(IncompatibleError, match=rf"need TensorRT 10\.16 or later, found {backend} {version}") as caught:
        choose_form(backend, version, (1024,), "plugin")
    assert (caught.value.code, caught.value.hint) == (4, "engine.tensorrt.attention = 'auto'")


def test_a_plugin_that_cannot_be_registered_is_named(tmp_path: Path) -> None:
    graph = tmp_path / "lowered.onnx"
    inputs, _ = write_lowered(exported("siglip2").portable, graph, "plugin", "fp16")
    sizes = [{"tokens": 64, "images": 8}]
    request = make_request("tensorrt-rtx", graph, graph, inputs, sizes, (), "fp16", plugins=registration())
    with pytest.raises(IncompatibleError, match="plugins need the module tensorrt, which is missing"):
        run(request)


def test_a_graph_that_is_none_and_a_worker_that_dies_are_told_apart(tmp_path: Path) -> None:
    graph = tmp_path / "lowered.onnx"
    inputs, _ = write_lowered(exported("siglip2").portable, graph, "segment", "fp16")
    plan = tmp_path / "engine.plan"
    good = make_request("tensorrt-rtx", graph, plan, inputs, [{"tokens": 64, "images": 8}], (), "fp16")
    missing = Request(**{**vars(good), "graph": str(tmp_path / "none.onnx")})
    results = list(run_all([missing, good]))
    assert isinstance(results[0], IncompatibleError)
    assert "cannot build this graph" in results[0].message
    assert isinstance(results[1], Built)
    strange = onnx.helper.make_node("TurboAttention", ["x"], ["y"], domain="acme")
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [2]) for name in "xy")
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("acme", 1)]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([strange], "g", [x], [y]), opset_imports=opsets), graph)
    with pytest.raises(IncompatibleError, match="a plugin that TensorRT does not have"):
        run(Request("tensorrt-rtx", str(graph), str(plan), [{"x": (2,)}]))


def test_profiles_that_disagree_are_refused_before_they_are_built(tmp_path: Path) -> None:
    """TensorRT itself builds an engine of mismatched image counts without a word."""
    graph = tmp_path / "lowered.onnx"
    inputs, _ = write_lowered(exported("siglip2").portable, graph, "packed", "fp16")
    request = make_request("tensorrt-rtx", graph, graph, inputs, [{"tokens": 64, "images": 8}], (), "fp16")
    shapes = request.profiles[0]
    assert tensorrt.check_profile(inputs, shapes) == {"tokens": 64, "images": 8}
    for name, wrong in (("grid_hw", (8, 2)), ("cu_seqlens", (10,)), ("coords", (63, 2)), ("patches", (64, 47))):
        with pytest.raises(UsageError, match=rf"optimization profile: .*{name}"):
            tensorrt.check_profile(inputs, shapes | {name: wrong})
    with pytest.raises(UsageError, match="segment_ids: expected 1 dimensions, found none"):
        tensorrt.check_profile(inputs, {name: shape for name, shape in shapes.items() if name != "segment_ids"})


def test_a_backend_that_runs_here_comes_before_one_that_is_only_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: "there is no NVIDIA driver")
    both = resolve("doc-ocr", overrides={"engine.backends": ["tensorrt-rtx", "onnxruntime"]}).profile
    assert choose(both)[0].backend.name == "onnxruntime"
    only = resolve("doc-ocr", overrides={"engine.backends": ["tensorrt-rtx"]}).profile
    lowering, precision = choose(only)
    assert (lowering.backend.name, precision) == ("tensorrt-rtx", "bf16")
    overrides = {"engine.backends": ["tensorrt-rtx"], "engine.tensorrt.targets": ["sm75"]}
    assert choose(resolve("doc-ocr", overrides=overrides).profile)[1] == "fp16"
    with pytest.raises(IncompatibleError, match="tensorrt: TensorRT is not installed"):
        choose(resolve("doc-ocr", overrides={"engine.backends": ["tensorrt"]}).profile)
    monkeypatch.setattr(tensorrt_library, "installed", lambda backend: "11.4.0")
    with pytest.raises(IncompatibleError, match="tensorrt: there is no NVIDIA driver"):
        choose(resolve("doc-ocr", overrides={"engine.backends": ["tensorrt"]}).profile)
    here = cuda_device.Device("H200", "sm90", 10**11, "13.0")
    monkeypatch.setattr(cuda_device, "find", lambda: here)
    assert find("tensorrt").cannot_run() is None
    assert "supports sm75, sm80, sm86, sm89, sm120, sm121, found sm90 (H200)" in (
        find("tensorrt-rtx").cannot_run() or ""
    )
    assert tensorrt.choose_targets("tensorrt", profile('engine.tensorrt.targets=["sm90"]')) == ("sm90",)
    with pytest.raises(UsageError, match="expected target sm90, found sm89, sm86"):
        tensorrt.choose_targets("tensorrt", profile())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("cudaError 35: CUDA driver version is insufficient for CUDA runtime version", "no NVIDIA driver"),
        ("Error Code 2: OutOfMemory (Requested size was 999 bytes. out of memory)", "GPU does not have enough memory"),
        ("ModuleNotFoundError: No module named 'tensorrt_rtx_bindings.plugin'", "module tensorrt_rtx_bindings.plugin"),
        ("Attention operation was not supported by a dedicated kernel", "no kernel for this attention"),
        (
            "PolygraphyException: Module: 'tensorrt' is required but could not be imported. "
            "Note: Error was: libnvinfer.so.11: cannot open shared object file: No such file or directory",
            "file libnvinfer.so.11 is missing",
        ),
        ("something\n new", "cannot build this graph: something new"),
    ],
)
def test_each_refusal_has_its_own_words(error: str, said: str) -> None:
    told = refusal("tensorrt", [error], 1)
    assert said in told.message
    assert "reinstall" not in told.hint or told.hint.endswith("'naflex-deploy[tensorrt]'")
    assert "memory" not in said or told.hint == "free GPU memory, or remove the largest of packing.budgets"
    assert "status -6 and no message" in refusal("tensorrt", [], -6).message


@cache
def calibration() -> QuantSpec:
    """Of images of the example's kind."""
    images = random_images(((3, 5), (7, 4), (9, 9), (2, 9), (5, 8)), 4)
    return observed(exported("siglip2").portable, images)


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_quantised_graphs_stay_close_to_the_reference(
    tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "SMOOTHED", np.inf)  # Smooth always, because the test is about the graph.
    model = exported("siglip2")
    pack = model.pack((3, 5), (7, 4), (9, 9))
    graph = tmp_path / "quantised.onnx"
    quantization = prepare(model.portable, calibration(), KINDS[precision], 0)
    assert len(quantization.layers) == 12
    assert quantization.smoothings
    write_lowered(model.portable, graph, "segment", precision, quantization)
    tensors = {tensor.name: tensor.data_type for tensor in onnx.load(str(graph)).graph.initializer}
    stored = onnx.TensorProto.INT8 if precision == "int8" else onnx.TensorProto.FLOAT8E4M3FN
    assert sum(kind == stored for kind in tensors.values()) >= 24
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # It fails on FP8.
    feeds = {role.value: pack.view(role) for role in model.checkpoint.model().roles}
    found = ort.InferenceSession(str(graph), options).run(["tokens"], feeds)[0]
    assert cosine(found, model.reference(pack)["tokens"]).min() > (0.99 if precision == "int8" else 0.985)


@pytest.mark.parametrize(
    ("precision", "targets"),
    [("int8", ("sm80",)), ("int8", ("sm86", "sm89")), ("int8", ("sm120",)), ("fp8", ("sm89",))],
)
def test_every_product_asked_for_takes_eight_bits_on_both_sides(
    tmp_path: Path, precision: str, targets: tuple[str, ...]
) -> None:
    given = task(tmp_path, f"engine.tensorrt.targets={json.dumps(targets)}", precision=precision, budgets=(64, 128))
    variant = tensorrt.lower("tensorrt-rtx", dataclasses.replace(given, calibration=calibration()))
    assert variant.name.endswith(f"-{'+'.join(targets)}-{precision}")
    assert variant.build["int8_products"] == {"asked": 12, "running": 12}
    assert [one["eight_bit_products"] for one in variant.build["profiles"]] == [12, 12]
    assert all(one["fused_attentions"] == 2 for one in variant.build["profiles"])
    assert variant.gate.status == "unmeasured"


def test_the_products_outside_of_blocks_take_eight_bits_where_they_may(tmp_path: Path) -> None:
    given = task(tmp_path, precision="int8", budgets=(64,))
    variant = tensorrt.lower(
        "tensorrt-rtx", dataclasses.replace(given, calibration=dataclasses.replace(calibration(), float_sites=()))
    )
    assert variant.build["int8_products"] == {"asked": 17, "running": 17}


def test_products_that_stay_in_half_precision_fail_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the library took one of them for something else."""
    write = tensorrt.quantize
    monkeypatch.setattr(tensorrt, "quantize", lambda graph, layers: write(graph, dict(list(layers.items())[1:])))
    given = task(tmp_path, precision="int8", budgets=(64,))
    with pytest.raises(IncompatibleError, match="runs 11 of 12 quantised products in eight bits"):
        tensorrt.lower("tensorrt-rtx", dataclasses.replace(given, calibration=calibration()))
