#!/usr/bin/env bash
# torch 2.13.0: a model that indexes with int32 is exported to an ONNX graph that onnxruntime 1.31.1 refuses.
#
# `table[index]` with an int32 index runs in torch. `torch.onnx.export` writes GatherND with the indices left in int32,
# onnx.checker accepts the file, and loading it fails, since GatherND takes int64 alone. The same model with an int64
# index, or with `index_select`, which becomes Gather, loads and is right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet torch==2.13.0 onnx==1.23.2 onnxscript==0.7.2 onnxruntime==1.31.1 numpy==2.4.6
environment/bin/python - <<'PYTHON'
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import torch

warnings.filterwarnings("ignore")


class Index(torch.nn.Module):
    def forward(self, table, index):
        return table[index]


class Select(torch.nn.Module):
    def forward(self, table, index):
        return table.index_select(0, index)


def outcome(model, dtype):
    table, index = torch.rand(5, 3), torch.tensor([4, 0, 2], dtype=dtype)
    torch.onnx.export(model, (table, index), dynamo=True, verbose=False).save("model.onnx")
    exported = onnx.load("model.onnx")
    onnx.checker.check_model(exported)
    operators = ", ".join(node.op_type for node in exported.graph.node)
    try:
        session = ort.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
    except Exception as error:
        assert "Type 'tensor(int32)'" in str(error), error
        return operators, "refused"
    (found,) = session.run(None, {"table": table.numpy(), "index": index.numpy()})
    assert np.array_equal(found, table.numpy()[index.numpy()])
    return operators, "right"


found = {
    "table[int32]": outcome(Index(), torch.int32),
    "table[int64]": outcome(Index(), torch.int64),
    "index_select(int32)": outcome(Select(), torch.int32),
}
print(f"torch {torch.__version__}, onnxruntime {ort.__version__}")
for what, (operators, result) in found.items():
    print(f"{what}: {operators}: {result}")
assert [result for _, result in found.values()] == ["refused", "right", "right"]
PYTHON
