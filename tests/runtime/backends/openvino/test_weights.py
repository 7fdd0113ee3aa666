"""Weights as OpenVINO gets them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch

pytest.importorskip("openvino", reason="OpenVINO is an extra")

from naflex_deploy.core.errors import BundleError
from naflex_deploy.runtime.backends.openvino import model, weights
from naflex_deploy.runtime.backends.openvino.weights import Weight


def test_bf16_is_rounded_as_torch_rounds() -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(10_000) * 10.0 ** rng.integers(-30, 30, 10_000)).astype(np.float32)
    halfway = (np.arange(256, dtype=np.uint32) << 16 | 0x3F808000).view(np.float32)
    every = np.concatenate([values, halfway, np.zeros(1, np.float32), -values])
    wanted = torch.from_numpy(every).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(weights.rounded(every), wanted)


def read(root: Path, *, low: bool, **change: Any) -> np.ndarray:
    entry = {"file": "weights", "offset": 4, "dtype": "float32", "shape": [5, 6], "factor": 0.25, **change}
    weight = Weight.of(entry, low=low)
    found = weight.read(root, np.zeros(weight.size, np.uint8)).get_node()
    return (found.input_value(0).get_node() if low else found).get_data(dtype=np.float32)


@pytest.mark.parametrize("low", [False, True])
def test_a_weight_is_read_in_blocks_and_multiplied(low: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK", 7)
    values = np.arange(30, dtype=np.float32)
    (tmp_path / "weights").write_bytes(b"four" + values.tobytes())
    assert np.array_equal(read(tmp_path, low=low), values.reshape(5, 6) / 4)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"file": "../weights"}, "lies outside the bundle"),
        ({"file": "/etc/hostname"}, "lies outside the bundle"),
        ({"file": "absent"}, "No such file"),
        ({"offset": 8}, "ends too early"),
        ({"offset": -1}, "nvalid argument|negative seek"),
        ({"dtype": "float33"}, "float33"),
        ({"shape": [-4]}, "shape"),
        ({"shape": "four"}, "invalid literal"),
    ],
)
def test_a_table_that_names_what_is_not_there_is_refused(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    from openvino import Model
    from openvino import opset13 as ops

    (tmp_path / "bundle").mkdir()
    for path in (tmp_path / "weights", tmp_path / "bundle/weights"):
        path.write_bytes(bytes(16))
    entry = {"file": "weights", "offset": 0, "dtype": "float32", "shape": [4], **change}
    x = ops.parameter([4], np.float32, name="x")
    x.output(0).set_names({"x"})
    with patch.object(model, "core", lambda: SimpleNamespace(read_model=lambda content: Model([ops.relu(x)], [x]))):
        (tmp_path / "bundle/graph").touch()
        (tmp_path / "bundle/weights.json").write_text(json.dumps({"x": entry}))
        with pytest.raises(BundleError, match=reason):
            model.read(tmp_path / "bundle/graph", tmp_path / "bundle", "f32")
