#!/usr/bin/env bash
# OpenVINO 2026.4.1 on a CPU: FakeQuantize behind a normalisation joins its kernel where the tensor has three axes, and
# stays an operator of its own, in float32, where it has two.
#
# The values are the same: [T, D] and [1, T, D] differ by an axis of one. In a model that otherwise runs in bf16 the
# operator also needs a conversion to float32 before it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet openvino==2026.4.1 numpy==2.4.6
environment/bin/python - <<'PYTHON'
import numpy as np
import openvino as ov
from openvino import opset13 as op

WIDTH = 64
rng = np.random.default_rng(0)
stored = rng.integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8)


def kinds(axes):
    x = op.parameter([-1, WIDTH] if axes == 2 else [1, -1, WIDTH], np.float32)
    normal = op.mvn(x, op.constant(np.array([-1])), True, 1e-6, "inside_sqrt")
    low, high = op.constant(np.float32(-3)), op.constant(np.float32(3))
    rounded = op.fake_quantize(normal, low, high, low, high, 256)
    weight = op.multiply(op.convert(op.constant(stored), np.float32), op.constant(np.float32(0.01)))
    model = ov.Model([op.matmul(rounded, weight, False, False)], [x])
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    values = [node.get_rt_info()["layerType"] for node in compiled.get_runtime_model().get_ordered_ops()]
    return [str(getattr(value, "value", value)) for value in values]


for axes in (2, 3):
    found = kinds(axes)
    print(axes, "axes:", *(kind for kind in found if kind in ("MVN", "FakeQuantize", "FullyConnected")))
    assert "FullyConnected" in found
    assert ("FakeQuantize" in found) == (axes == 2)
PYTHON
