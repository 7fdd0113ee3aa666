"""The plugins, registered with a fake TensorRT that follows its rules: what an engine would embed and launch."""

from __future__ import annotations

import importlib
import re
import sys

import pytest

from tests.support.fake_plugins import Library, Plugin

pytest.importorskip("triton", reason="Triton has no package for this platform")


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> dict[str, Plugin]:
    library = Library()
    for name, module in library.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "plugins.register", raising=False)
    register = importlib.import_module("plugins.register")
    monkeypatch.setattr(register, "_architecture", lambda: 90)
    monkeypatch.delitem(sys.modules, "plugins.register")
    return library.plugins


def kinds(ptx: str, name: str) -> list[str]:
    """Of the entry's parameters: pointers and integers."""
    entry = re.search(rf"\.entry {name}\((.*?)\)", ptx, re.S)
    assert entry is not None
    return [line.split()[1] for line in entry[1].strip().split(",\n")]


@pytest.mark.parametrize("dtype", ["FP16", "BF16"])
def test_attention_is_launched_for_every_block_of_rows_and_head(plugins: dict[str, Plugin], dtype: str) -> None:
    shapes = [(1000, 144)] * 3 + [(1000,), (9,)]
    built = plugins["naflex::packed_attention"].build(shapes, [dtype] * 3 + ["INT32"] * 2, heads=2, scale=0.1)
    assert (built.shape, built.dtype, built.integers) == ((1000, 144), dtype, [1000, 8])
    assert [built.launch[key] for key in ("grid_x", "grid_y", "grid_z")] == [16, 2, 1]
    assert built.launch["block_x"] % 32 == 0
    # TensorRT passes inputs first, then integers, then outputs.
    assert kinds(built.ptx, built.name) == [".u64"] * 5 + [".u32"] * 2 + [".u64"]
    assert ".target sm_90" in built.ptx


@pytest.mark.parametrize("cubic", [False, True])
def test_positions_have_a_row_a_token_and_the_tables_type(plugins: dict[str, Plugin], cubic: bool) -> None:
    shapes = [(1000, 2), (9, 2), (1000,), (256, 96)]
    dtypes = ["INT32"] * 3 + ["FP32"]
    built = plugins["naflex::position_interpolation"].build(shapes, dtypes, rows=16, columns=16, cubic=cubic)
    assert (built.shape, built.dtype, built.integers) == ((1000, 96), "FP32", [1000])
    assert [built.launch[key] for key in ("grid_x", "grid_y")] == [32, 2]
    assert kinds(built.ptx, built.name) == [".u64"] * 4 + [".u32"] + [".u64"]


def test_types_that_differ_are_not_taken(plugins: dict[str, Plugin]) -> None:
    shapes = [(64, 64)] * 3 + [(64,), (2,)]
    with pytest.raises(AssertionError):
        plugins["naflex::packed_attention"].build(
            shapes, ["FP16", "BF16", "FP16", "INT32", "INT32"], heads=1, scale=0.1
        )
