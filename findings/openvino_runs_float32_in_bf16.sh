#!/usr/bin/env bash
# OpenVINO 2026.4.1 on a CPU with bf16 units: a float32 model is computed in bf16 unless it is told otherwise, and a
# compiled model that is exported with the hint f32 is computed in bf16 once it is imported without the hint.
#
# One product of 64x256 and 256x256 has a relative error of about 2e-3 by default and below 1e-5 with the hint. The
# exported file holds the weights but not the precision that it was compiled for. Needs a CPU with AVX512-BF16 or AMX.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet openvino==2026.4.1 numpy==2.4.6
environment/bin/python - <<'PYTHON'
import io

import numpy as np
import openvino as ov
from openvino import opset13 as op

core = ov.Core()
assert "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), "needs a CPU with bf16 units"
rng = np.random.default_rng(0)
x, w = rng.standard_normal((64, 256), np.float32), rng.standard_normal((256, 256), np.float32)
given = op.parameter([64, 256], np.float32)
model = ov.Model([op.matmul(given, op.constant(w), False, False)], [given])


def error(compiled):
    found = compiled([x])[0]
    return float(np.abs(found - x.astype(np.float64) @ w).max() / np.abs(x @ w).max())


hinted = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
blob = hinted.export_model()
blob = blob if isinstance(blob, bytes) else blob.getvalue() if isinstance(blob, io.BytesIO) else bytes(blob)
cases = {
    "compiled with the hint f32": hinted,
    "compiled by default": core.compile_model(model, "CPU"),
    "exported with the hint, imported without": core.import_model(blob, "CPU"),
    "exported with the hint, imported with it": core.import_model(blob, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}),
}
errors = {name: error(compiled) for name, compiled in cases.items()}
for name, value in errors.items():
    print(f"{name}: relative error {value:.1e}")
low = [value > 1e-3 for value in errors.values()]
assert low == [False, True, True, False]
PYTHON
