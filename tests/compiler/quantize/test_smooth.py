"""Folding scales, shifts and means into weights does not change results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from naflex_deploy.compiler.passes.graphs import Model, read, write
from naflex_deploy.compiler.quantize.centre import centre
from naflex_deploy.compiler.quantize.layers import groups, linear_layers
from naflex_deploy.compiler.quantize.observation import SiteObservation
from naflex_deploy.compiler.quantize.smooth import Smoothing, absorber, fold
from tests.support import graphs
from tests.support.graphs import CASES, FAMILIES, assert_equal, pack, portable


def absorbing(model: Model) -> dict[str, bool]:
    """Sites of blocks that can be smoothed without an additional operation, and whether they can be shifted."""
    found = {group.site: absorber(model, group) for group in groups(model) if group.site.startswith("blocks.")}
    return {site: one.shifts for site, one in found.items() if one is not None}


def rewritten(name: str, model: Model) -> Path:
    path = portable(name).parent / "rewritten.onnx"
    write(model, path, portable(name).parent)
    return path


@pytest.mark.parametrize("name", CASES)
def test_any_scale_and_shift_cancel(name: str) -> None:
    model = read(portable(name))
    rng = np.random.default_rng(0)
    smoothings = {}
    for group in groups(model):
        width = len(next(iter(group.layers.values())).weight)
        found = absorber(model, group)
        shift = rng.standard_normal(width) * (found is not None and found.shifts)
        scale = np.exp(rng.uniform(-2, 2, width))
        smoothings[group.site] = Smoothing(scale.astype(np.float32), shift.astype(np.float32))
    before = linear_layers(model)
    fold(model, smoothings)
    after = linear_layers(model)
    assert all(not np.array_equal(after[layer].weight, before[layer].weight) for layer in after)
    one = pack(name)
    assert_equal(graphs.run(rewritten(name, model), one), graphs.run(portable(name), one))


def test_it_is_folded_where_it_commutes_and_nowhere_else() -> None:
    plain = {f"blocks.{i}.{site}.input": True for i in (0, 1) for site in ("query", "out", "mlp.fc1")}
    assert absorbing(read(portable("siglip2"))) == plain
    # A gate multiplies, so nothing before it can absorb a shift; a norm of hidden channels absorbs both.
    gated = {f"blocks.{i}.out.input": False for i in (0, 1)} | {f"blocks.{i}.mlp.fc2.input": True for i in (0, 1)}
    assert absorbing(read(portable("rope mixed, gates"))) == plain | gated


def test_nothing_is_folded_into_what_others_read_too() -> None:
    model = read(portable("siglip2"))
    group = next(group for group in groups(model) if group.site == "blocks.0.query.input")
    model.graph.outputs.append(group.x)
    assert "blocks.0.query.input" not in absorbing(model)
    assert "blocks.1.query.input" in absorbing(model)
    # The normalised tokens are an output, and the input of the pooling head.
    pool = next(group for group in groups(model) if group.site == "pool.key.input")
    assert absorber(model, pool) is None


def test_the_scale_balances_activations_and_weights_and_the_shift_centres() -> None:
    low, high = np.array([-100, 2, 0, -1], np.float32), np.array([100, 4, 0, 1], np.float32)
    seen = SiteObservation.of(np.stack([low, high]))
    weight = np.array([1, 1, 1, 0], np.float32)

    def smoothing(alpha: float, *, shifts: bool = True) -> Smoothing:
        return Smoothing.of(seen, weight, alpha, shifts=shifts)

    assert smoothing(0.5).shift.tolist() == [0, 3, 0, 0]
    assert smoothing(0.5).scale[2:].tolist() == [1, 1]
    assert smoothing(0.5).scale[:2].prod() == pytest.approx(1)
    assert smoothing(0.5).scale[0] / smoothing(0.5).scale[1] == pytest.approx(10)
    assert smoothing(1.0).scale[0] / smoothing(1.0).scale[1] == pytest.approx(100)
    assert np.ptp(smoothing(1.0).applied(high)[:2]) < 1e-5
    assert not smoothing(0.5, shifts=False).shift.any()
    assert smoothing(1.0, shifts=False).scale[0] / smoothing(1.0, shifts=False).scale[1] == pytest.approx(100 / 4)


@pytest.mark.parametrize("name", CASES)
def test_what_all_channels_share_is_taken_out_of_the_stream(name: str) -> None:
    model = read(portable(name))
    layers = linear_layers(model)
    centred = centre(model, [layer for layer in layers if layer.startswith("blocks.")])
    # Without a final norm of tokens, the model returns the residual stream itself, and Phi-4 that of the first block.
    free = {"Phi-4-reasoning-vision": (1,)}.get(name, (0, 1) if FAMILIES[name].final_norm == "tokens" else ())
    assert set(centred) == {f"blocks.{i}.{layer}" for i in free for layer in ("out", "mlp.fc2")}
    for layer in centred:
        linear = linear_layers(model)[layer]
        assert np.abs(linear.weight.mean(1)).max() < 1e-7
        assert np.abs(layers[layer].weight.mean(1)).max() > 1e-3
    one = pack(name)
    assert_equal(graphs.run(rewritten(name, model), one), graphs.run(portable(name), one))


def test_a_stream_that_is_an_output_keeps_its_mean() -> None:
    model = read(portable("siglip2"))
    model.graph.outputs.append(linear_layers(model)["blocks.1.mlp.fc2"].y.outputs[0].outputs[0])
    assert centre(model, list(linear_layers(model))) == []
