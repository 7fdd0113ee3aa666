"""Every position embedding, against torch's own resize or the formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from naflex_deploy.compiler.checkpoints.random_weights import random_checkpoint
from naflex_deploy.compiler.model.architecture import Architecture, Positions
from naflex_deploy.compiler.model.positions.learned import CoordinateMlp, SoftmaxTable
from naflex_deploy.core.errors import UsageError
from tests.support.positions import coordinate_mlp, filled, learned_softmax, place_all
from tests.support.siglip2 import right_interpolation

SIDES = st.sampled_from([1, 2, 3, 7, 16, 17, 40, 70, 130])


@settings(max_examples=150, deadline=None)
@given(
    grid=st.tuples(SIDES, SIDES),
    source=st.tuples(st.sampled_from([1, 5, 16, 31]), st.sampled_from([2, 16, 24])),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
    antialias=st.booleans(),
    align_corners=st.booleans(),
    square=st.booleans(),
)
def test_a_table_is_resized_as_torch_does(grid, source, interpolation, antialias, align_corners, square):
    positions = Positions(source, interpolation, antialias, align_corners, square)
    layer = filled(positions)
    with torch.no_grad():
        found = layer(*place_all(grid))
        table = layer.table.view(1, *source, 3).permute(0, 3, 1, 2).double()
        size = (max(grid), max(grid)) if square else grid
        with right_interpolation():
            resized = F.interpolate(
                table, size=size, mode=interpolation, antialias=antialias, align_corners=align_corners
            )
    expected = resized[0, :, : grid[0], : grid[1]].flatten(1).T
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("grid", [(128, 128), (100, 37), (1, 60), (150, 9)])
def test_a_large_table_costs_four_rows_a_token(grid, align_corners):
    layer = filled(Positions((128, 128), "bilinear", antialias=False, align_corners=align_corners, square=True))
    with torch.no_grad():
        found = layer(*place_all(grid))
        table = layer.table.view(1, 128, 128, 3).permute(0, 3, 1, 2)
        resized = F.interpolate(table, size=(max(grid),) * 2, mode="bilinear", align_corners=align_corners)
    expected = resized[0, :, : grid[0], : grid[1]].flatten(1).T
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("grid", [(1, 20), (33, 1), (16, 12), (7, 70), (5, 5)])
def test_factorized_tables_are_resized_as_torch_does(grid, square):
    layer = filled(Positions((16, 12), factorized=True, antialias=False, square=square))
    with torch.no_grad():
        found = layer(*place_all(grid))
        lengths = (max(grid), max(grid)) if square else grid
        rows, columns = (
            F.interpolate(part.T[None], size=length, mode="linear")[0].T[:keep]
            for part, length, keep in zip(layer.table.split([16, 12]), lengths, grid, strict=True)
        )
    expected = (rows[:, None] + columns[None]).flatten(0, 1)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("grid", [(1, 1), (3, 20), (9, 1), (25, 37), (5, 7), (10, 21)])
def test_learned_softmax_follows_its_formula(grid, align_corners):
    layer = filled(Positions((5, 7), "learned_softmax", align_corners=align_corners))
    expected = learned_softmax(layer, grid)
    with torch.no_grad():
        found = layer(*place_all(grid)).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_coordinate_mlp_follows_its_formula():
    layer = CoordinateMlp(6, 4)
    expected = coordinate_mlp(layer, (3, 5))
    with torch.no_grad():
        found = layer(*place_all((3, 5))).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(
    "layer", [SoftmaxTable(Positions((3, 4), "learned_softmax"), 2).double(), CoordinateMlp(3, 2).double()]
)
def test_learned_positions_have_right_gradients(layer):
    names, parameters = zip(*layer.named_parameters(), strict=True)
    parameters = [torch.randn_like(parameter, requires_grad=True) for parameter in parameters]
    arguments = place_all((2, 5))

    def run(*values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), arguments)

    assert torch.autograd.gradcheck(run, parameters)


def test_learned_mechanisms_train():
    """A whole model with both: every parameter of both receives a gradient."""
    positions = Positions((4, 4), "learned_softmax", align_corners=True)
    architecture = Architecture(16, 1, 2, 32, 2, positions, coordinate_mlp=8, pooling="mean")
    model = random_checkpoint(architecture).model().train().requires_grad_(True)
    coords, _ = place_all((3, 5))
    outputs = model(torch.rand(15, 12) * 255, coords, torch.tensor([[3, 5], [1, 1]]).int(), torch.zeros(15).int())
    outputs["pooled"].square().sum().backward()
    for name, parameter in model.named_parameters():
        if name.startswith(("positions", "coordinates")):
            assert parameter.grad is not None, name
            # Adding a constant to all four scores does not change the softmax.
            assert parameter.grad.abs().sum() > 0 or name == "positions.score.bias", name


def test_an_output_the_model_lacks_is_refused():
    checkpoint = random_checkpoint(Architecture(16, 2, 2, 32, 2, None, pooling="none"))
    with pytest.raises(UsageError, match="the model has no output 'pooled'"):
        checkpoint.model(("tokens", "pooled"))
    with pytest.raises(UsageError, match="the model has no output 'tokens:-3'"):
        checkpoint.model(("tokens:-3",))
