#!/usr/bin/env bash
# OpenVINO 2026.4.1 reads an ONNX Resize and ignores three of its attributes, without an error or a warning: antialias,
# exclude_outside and keep_aspect_ratio_policy. torch's exporter writes the first two for
# interpolate(..., antialias=True), which is how SigLIP2 shrinks its table of positions to the grid of an image. The
# same file gives antialiased positions in ONNX Runtime 1.31.1 and others in OpenVINO: those of a Resize without
# antialias, which differ by as much as the values themselves.
#
# Seen: a table [1, 3, 16, 16] of normal values, resized to 5 x 7. Pillow's antialiased filters are the reference.
#   linear: onnxruntime is within 1e-6 of Pillow; openvino is off by 1.8, and equal to linear without antialias
#   cubic:  onnxruntime is within 1e-5 of Pillow; openvino is off by 2.2
#   sizes [9, 9] of a [6, 8] input with keep_aspect_ratio_policy=not_larger: onnxruntime gives 7 x 9, openvino 9 x 9
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet openvino==2026.4.1 onnxruntime==1.31.1 onnx==1.23.2 numpy==2.3.5 pillow==12.2.0
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
import openvino
from onnx import TensorProto, helper
from PIL import Image


def resize(shape, sizes, axes, **attributes):
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], axes=axes, coordinate_transformation_mode="half_pixel", **attributes
    )
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape))],
        [helper.make_tensor("sizes", TensorProto.INT64, [len(sizes)], sizes)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return model.SerializeToString()


def in_onnxruntime(model, x):
    return onnxruntime.InferenceSession(model).run(None, {"x": x})[0]


def in_openvino(model, x):
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return compiled([x])[0]


x = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
filters = {"linear": Image.Resampling.BILINEAR, "cubic": Image.Resampling.BICUBIC}
for mode, chosen in filters.items():
    attributes = {"mode": mode, "cubic_coeff_a": -0.5}
    smooth = resize([1, 3, 16, 16], [5, 7], [2, 3], antialias=1, exclude_outside=1, **attributes)
    plain = resize([1, 3, 16, 16], [5, 7], [2, 3], **attributes)
    want = np.stack([np.asarray(Image.fromarray(channel).resize((7, 5), chosen)) for channel in x[0]])[None]
    right = np.abs(in_onnxruntime(smooth, x) - want).max()
    found = in_openvino(smooth, x)
    wrong = np.abs(found - want).max()
    same = np.abs(found - in_openvino(plain, x)).max()
    print(f"{mode}: onnxruntime {right:.1e}, openvino {wrong:.2f} from Pillow; openvino {same:.1e} from no antialias")
    assert right < 1e-5, "onnxruntime no longer agrees with Pillow"
    assert wrong > 1 and same == 0, "openvino no longer ignores antialias and exclude_outside"

image = np.zeros((1, 1, 6, 8), np.float32)
kept = resize([1, 1, 6, 8], [9, 9], [2, 3], mode="linear", keep_aspect_ratio_policy="not_larger")
shapes = in_onnxruntime(kept, image).shape[2:], in_openvino(kept, image).shape[2:]
print("not_larger: onnxruntime {}, openvino {}".format(*shapes))
assert shapes == ((7, 9), (9, 9)), "openvino no longer ignores keep_aspect_ratio_policy"
PYTHON
