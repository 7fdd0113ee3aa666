#!/usr/bin/env bash
# onnxruntime 1.31.1: a graph whose weights are in a file of their own does not load where /proc is not mounted.
#
# Every other file can be opened, and the same graph with its weights inside loads. The session opens the file of weights
# and then asks /proc/self/fd for its path, to check that it lies in the model's folder. So a chroot, a sandbox or a
# minimal container without /proc runs small models and refuses large ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >make.py <<'PYTHON'
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

weight = numpy_helper.from_array(np.eye(64, dtype=np.float32), "weight")
x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 64]) for name in "xy")
graph = helper.make_graph([helper.make_node("MatMul", ["x", "weight"], ["y"])], "product", [x], [y], [weight])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
onnx.save(model, "inside.onnx")
onnx.save(model, "outside.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
PYTHON
cat >load.py <<'PYTHON'
import os
import sys

import onnxruntime as ort

ort.set_default_logger_severity(4)
for name in ("inside.onnx", "outside.onnx"):
    try:
        ort.InferenceSession(name, providers=["CPUExecutionProvider"])
        found = "loads"
    except Exception as error:
        found = "refused: " + ("/proc" in str(error) and "it requires /proc" or str(error).splitlines()[0])
    print(f"onnxruntime {ort.__version__}, /proc {'there' if os.path.exists('/proc/self') else 'absent'}: {name} {found}")
PYTHON
python3 -m venv environment
environment/bin/pip install --quiet onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6
environment/bin/python make.py
{
  environment/bin/python load.py
  unshare --map-root-user --mount sh -c 'mount -t tmpfs none /proc && exec environment/bin/python load.py 2>/dev/null'
} | tee found
for line in \
  "onnxruntime 1.31.1, /proc there: outside.onnx loads" \
  "onnxruntime 1.31.1, /proc absent: inside.onnx loads" \
  "onnxruntime 1.31.1, /proc absent: outside.onnx refused: it requires /proc"; do
  grep -qxF "$line" found
done
