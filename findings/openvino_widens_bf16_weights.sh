#!/usr/bin/env bash
# OpenVINO 2026.4.1 on a CPU with bf16 units: a weight that is given in bf16 is kept as float32, although the product that
# reads it was asked to run, and runs, in bf16. Beside it there is the copy in the layout of the kernel.
#
# The conversion to float32, which a MatMul of float32 needs in the graph, is computed when compiling. It stays a
# conversion, and the weight stays bf16, where its rt_info marks it as one of compressed weights.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet openvino==2026.4.1 numpy==2.4.6
environment/bin/python - <<'PYTHON'
import numpy as np
import openvino as ov
from openvino import op as nodes
from openvino import opset13 as op

if "BF16" not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
    raise SystemExit("this CPU has no bf16 units: nothing to see here")
WIDTH = 256


def kept(marked):
    """Precision in which the weight is kept, and in which its product runs."""
    weight = ov.Tensor(ov.Type.bf16, [WIDTH, WIDTH])
    weight.data.view(np.uint16)[:] = 0x3F80
    wide = op.convert(nodes.Constant(weight, shared_memory=True), np.float32)
    if marked:
        wide.get_rt_info()["decompression_0"] = True
    x = op.parameter([-1, WIDTH], np.float32)
    model = ov.Model([op.matmul(x, wide, False, False)], [x])
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    found = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = {key: str(getattr(value, "value", value)) for key, value in node.get_rt_info().items()}
        if about["layerType"] == "FullyConnected":
            found["product"] = about["runtimePrecision"]
        if about["layerType"] == "Const" and str(node.output(0).partial_shape) == f"[{WIDTH},{WIDTH}]":
            found["weight"] = about["runtimePrecision"]
    return found


for marked in (False, True):
    print("marked:" if marked else "as it is:", kept(marked))
assert kept(False) == {"weight": "f32", "product": "bf16"}
assert kept(True) == {"weight": "bf16", "product": "bf16"}
PYTHON
