"""Measures the fastest matrix products that this machine reaches, each library alone in a process of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

SHAPES = ((1024, 768, 3072), (1024, 3072, 768), (1024, 768, 768))
"""Sizes (T, D, E) of the products [T, D]·[D, E] of a ViT-B."""
SMALL = ((64, 96, 192),)
"""One that takes no time, to test the benchmark."""

Shape = tuple[int, int, int]
Calls = dict[str, Callable[[], object]]
Rates = dict[str, float]
"""GFLOP/s of ``sgemm`` and ``bf16``, GOP/s of ``int8``, as far as a library has such products."""

REPEATS = 3
"""Calls of each product in a turn."""

LIBRARIES = ("torch", "onnxruntime", "openvino")


def products(
    library: str, threads: int, clock: Callable[[], float] = time.perf_counter, shapes: Sequence[Shape] = SHAPES
) -> Callable[[], Rates]:
    """A turn of one library: the best rate of each kind of product, of all shapes."""
    calls = {shape: _CALLS[library](shape, threads) for shape in shapes}

    def turn() -> Rates:
        best: Rates = {}
        for shape, kinds in calls.items():
            for kind, call in kinds.items():
                for _ in range(REPEATS):
                    start = clock()
                    call()
                    rate = 2 * math.prod(shape) / (clock() - start) / 1e9
                    best[kind] = max(best.get(kind, 0.0), rate)
        return best

    return turn


def _torch(shape: Shape, threads: int) -> Calls:
    import torch

    torch.set_num_threads(threads)
    a, b = (torch.from_numpy(array) for array in _arrays(shape))
    low, weight = a.bfloat16(), b.T.contiguous().bfloat16()
    return {"sgemm": lambda: a @ b, "bf16": lambda: torch.nn.functional.linear(low, weight)}


def _onnxruntime(shape: Shape, threads: int) -> Calls:
    a, b = _arrays(shape)
    rng = np.random.default_rng(0)
    gemm = _session("MatMul", b, TensorProto.FLOAT, threads)
    integer = _session("MatMulInteger", rng.integers(-99, 99, b.shape, dtype=np.int8), TensorProto.UINT8, threads)
    u8 = rng.integers(0, 255, a.shape, dtype=np.uint8)
    return {"sgemm": lambda: gemm.run(None, {"a": a}), "int8": lambda: integer.run(None, {"a": u8})}


def _openvino(shape: Shape, threads: int) -> Calls:
    import openvino as ov
    from openvino import opset13 as op

    a, b = _arrays(shape)
    scale = np.float32(0.05)
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}

    def compiled(hint: str, *, integer: bool = False) -> Callable[[], object]:
        x = op.parameter([-1, shape[1]], np.float32)
        source, weight = x, op.constant(b)
        if integer:
            ends = [op.constant(np.float32(end) * scale) for end in (-128, 127)]
            source = op.fake_quantize(x, *ends, *ends, 256)
            stored = op.constant(np.clip(np.rint(b / scale), -127, 127).astype(np.int8))
            weight = op.multiply(op.convert(stored, np.float32), op.constant(scale))
        product = op.reduce_sum(op.matmul(source, weight, False, False), op.constant(np.array([1])), False)
        request = (
            ov.Core()
            .compile_model(ov.Model([product], [x]), "CPU", {**settings, "INFERENCE_PRECISION_HINT": hint})
            .create_infer_request()
        )
        request.set_input_tensor(ov.Tensor(a))
        return request.infer  # type: ignore[no-any-return]

    return {"sgemm": compiled("f32"), "bf16": compiled("bf16"), "int8": compiled("f32", integer=True)}


_CALLS: dict[str, Callable[[Shape, int], Calls]] = {
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _arrays(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    rows, inner, columns = shape
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, inner), np.float32), rng.standard_normal((inner, columns), np.float32)


def _session(op: str, weight: np.ndarray, dtype: int, threads: int) -> ort.InferenceSession:
    graph = helper.make_graph(
        [helper.make_node(op, ["a", "b"], ["c"])],
        op,
        [helper.make_tensor_value_info("a", dtype, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("c", TensorProto.UNDEFINED, None)],
        [numpy_helper.from_array(weight, "b")],
    )
    del graph.output[:]
    graph.output.append(onnx.ValueInfoProto(name="c"))
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
