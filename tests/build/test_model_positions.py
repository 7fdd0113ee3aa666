"""Every way to place a token, against torch's own resize or the formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from naflex_deploy.build.architecture import Architecture, Positions
from naflex_deploy.build.checkpoints.random_weights import random_checkpoint
from naflex_deploy.build.model import position_table
from naflex_deploy.build.positions_learned import CoordinateMlp, SoftmaxTable
from naflex_deploy.core.errors import UsageError
from tests.support.siglip2 import right_interpolation

SIDES = st.sampled_from([1, 2, 3, 7, 16, 17, 40, 70, 130])


def place_all(grid):
    height, width = grid
    coords = torch.cartesian_prod(torch.arange(height), torch.arange(width)).int()
    return coords, torch.tensor([grid]).int().expand(len(coords), 2)


def filled(positions, width=3):
    layer = position_table(positions, width)
    torch.manual_seed(0)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


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


def gelu(x):
    from math import erf

    return x * 0.5 * (1 + np.vectorize(erf)(x / np.sqrt(2)))


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("grid", [(1, 1), (3, 20), (9, 1)])
def test_learned_softmax_follows_its_formula(grid, align_corners):
    layer = filled(Positions((5, 7), "learned_softmax", align_corners=align_corners))
    with torch.no_grad():
        found = layer(*place_all(grid)).numpy()
    table = layer.table.detach().numpy().reshape(5, 7, 3)
    w1, b1, w2, b2 = (p.detach().numpy() for n, p in layer.named_parameters() if n != "table")
    for token, (row, column) in enumerate(np.ndindex(grid)):
        place = []
        for index, size, source in zip((row, column), grid, (5, 7), strict=True):
            if align_corners:
                place.append(index * (source - 1) / max(size - 1, 1))
            else:
                place.append((index + 0.5) * source / size - 0.5)
        scores, values = [], []
        for dy in (0, 1):
            for dx in (0, 1):
                i, j = int(np.floor(place[0])) + dy, int(np.floor(place[1])) + dx
                scores.append((w2 @ gelu(w1 @ np.array([place[0] - i, place[1] - j]) + b1) + b2).item())
                values.append(table[np.clip(i, 0, 4), np.clip(j, 0, 6)])
        weights = np.exp(scores) / np.exp(scores).sum()
        assert np.abs(found[token] - weights @ np.array(values)).max() < 3e-5


def test_coordinate_mlp_follows_its_formula():
    layer = CoordinateMlp(6, 4)
    coords, grid = place_all((3, 5))
    w1, b1, w2, b2 = (parameter.detach().numpy() for parameter in layer.parameters())
    expected = gelu((coords / torch.tensor([3, 5])).numpy() @ w1.T + b1) @ w2.T + b2
    assert np.abs(layer(coords, grid).detach().numpy() - expected).max() < 1e-6


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
            # One constant added to all four scores changes no softmax.
            assert parameter.grad.abs().sum() > 0 or name == "positions.score.bias", name


def test_an_output_the_model_lacks_is_refused():
    checkpoint = random_checkpoint(Architecture(16, 2, 2, 32, 2, None, pooling="none"))
    with pytest.raises(UsageError, match="found 'pooled'"):
        checkpoint.model(("tokens", "pooled"))
    with pytest.raises(UsageError, match="found 'tokens:-3'"):
        checkpoint.model(("tokens:-3",))
