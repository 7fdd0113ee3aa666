"""Measures the fastest matrix products that this machine reaches with any of the installed libraries."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks.support.timing import interleaved

SHAPES = ((1024, 768, 3072), (1024, 3072, 768), (1024, 768, 768))
"""Sizes (T, D, E) of the products [T, D]·[D, E] of a ViT-B."""


def rooflines(threads: int, rounds: int = 7, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """GFLOP/s of float32 and bf16 products and GOP/s of u8·s8 products, as the best over libraries and `SHAPES`."""
    torch.set_num_threads(threads)
    best: dict[str, float] = {}
    for shape in SHAPES:
        timings = interleaved(_calls(shape, threads), rounds, clock)
        for name, timing in timings.items():
            kind = name.partition(" ")[0]
            best[kind] = max(best.get(kind, 0.0), 2 * np.prod(shape, dtype=np.float64) / timing.best / 1e9)
    return best


def _calls(shape: tuple[int, int, int], threads: int) -> dict[str, Callable[[], object]]:
    rows, inner, columns = shape
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((rows, inner), np.float32), rng.standard_normal((inner, columns), np.float32)
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    ha, hb = ta.bfloat16(), tb.bfloat16()
    gemm = _session("MatMul", b, TensorProto.FLOAT, threads)
    integer = _session("MatMulInteger", rng.integers(-99, 99, b.shape, dtype=np.int8), TensorProto.UINT8, threads)
    u8 = rng.integers(0, 255, a.shape, dtype=np.uint8)
    return {
        "sgemm torch": lambda: ta @ tb,
        "sgemm onnxruntime": lambda: gemm.run(None, {"a": a}),
        "bf16 torch": lambda: ha @ hb,
        "int8 onnxruntime": lambda: integer.run(None, {"a": u8}),
    }


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
