"""Build logs that do not say what is read from them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from naflex_deploy.compiler.backends.tensorrt import lowering
from naflex_deploy.compiler.backends.tensorrt.log import BuildLog, check_profiles, parse
from naflex_deploy.compiler.backends.tensorrt.lowering import check_memory, check_products
from naflex_deploy.compiler.backends.tensorrt.process import Built
from naflex_deploy.core.errors import IncompatibleError
from tests.compiler.backends.tensorrt.test_build import task

TENSOR = "{ Name: x, Location: Device, Dimensions: [64,64], Datatype: %s }"
EIGHT, HALF = (TENSOR % kind for kind in ("Int8", "Half"))
LAYER = (
    " Name: __myl_gemm_myl0_3, LayerType: gemm, "
    f"Inputs: [ {EIGHT}, {EIGHT} ], Outputs: [ {HALF} ], [ONNX Layer: a/Gemm]"
)
SIZES = [{"tokens": 64, "images": 8}]


def log(*lines: str) -> BuildLog:
    return parse([("VERBOSE", line) for line in lines])


MEMORY, WEIGHTS = "Total Activation Memory: 1000000 bytes", "Total Weights Memory: 2000000 bytes"


def quantised(products: int) -> Any:
    return SimpleNamespace(layers=dict.fromkeys(range(products)))


def test_a_log_that_says_everything_passes() -> None:
    told = log(MEMORY, WEIGHTS, LAYER)
    check_profiles(told, 1)
    assert check_products(told, quantised(1)) == {"int8_products": {"asked": 1, "running": 1}}
    check_memory(told, SIZES, 3_000_000)
    with pytest.raises(IncompatibleError, match=r"budget 64 needs 3 MB, engine\.memory_limit is 2 MB"):
        check_memory(told, SIZES, 2_000_000)
    with pytest.raises(IncompatibleError, match="runs 1 of 2 quantised products"):
        check_products(told, quantised(2))


@pytest.mark.parametrize(("lines", "found"), [((), 0), (("Activation memory is 1 MB",), 0), ((MEMORY, MEMORY), 2)])
def test_another_number_of_profiles_than_was_asked_for_is_refused(
    lines: tuple[str, ...], found: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lowering, "run", lambda request, report: Built(log(*lines), 1))
    said = f"expected the activation memory of 1 optimization profiles, found that of {found}"
    with pytest.raises(IncompatibleError, match=said) as caught:
        lowering.lower("tensorrt-rtx", task(tmp_path, budgets=(64,)))
    assert caught.value.hint


def test_layers_that_are_not_listed_are_not_taken_for_layers_in_sixteen_bits() -> None:
    with pytest.raises(IncompatibleError, match="expected the layers of optimization profile 1, found none"):
        check_products(log(MEMORY, MEMORY, LAYER), quantised(1))


def test_layers_belong_to_the_profile_that_their_region_reads() -> None:
    """TensorRT-RTX gives numbers to what it keeps outside regions too, as when blocks of tokens are joined."""
    region = (
        " Name: __myl_Cast_myl{n}_0, LayerType: kgen, Inputs: [ {{ Name: patches{mark}, Datatype: UInt8 }} ], "
        "Outputs: [ {{ Name: t, Datatype: Half }} ]",
        " Name: _gemm_mha_v2_myl{n}_1, LayerType: kgen, Inputs: [ {{ Name: __mye1_myl{n}, Datatype: Half }} ], "
        "Outputs: [ {{ Name: u, Datatype: Half }} ]",
        LAYER.replace("{", "{{").replace("}", "}}").replace("_myl0_3", "_myl{n}_2"),
    )
    copies = " Name: [ShapeHostToDeviceCopy 0]{mark}, LayerType: ShapeHostToDevice, Inputs: [], Outputs: []"
    marks = ("", " [profile 1]", " [profile 2]")
    lines = [line.format(n=2 * index + 1, mark=mark) for index, mark in enumerate(marks) for line in (copies, *region)]
    told = log(MEMORY, MEMORY, MEMORY, *lines)
    assert [(one.layers, one.fused_attentions, one.eight_bit_products) for one in told.profiles] == [(4, 1, 1)] * 3


def test_a_limit_is_not_checked_without_the_weights() -> None:
    told = log(MEMORY)
    check_memory(told, SIZES, None)
    with pytest.raises(IncompatibleError, match="expected the memory of the weights, found none"):
        check_memory(told, SIZES, 10**9)
