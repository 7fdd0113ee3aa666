"""How large the golden packs of large models are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from naflex_deploy.compiler.checkpoints.random_weights import random_checkpoint
from naflex_deploy.compiler.golden_packs import affordable, operations
from naflex_deploy.compiler.model.architecture import Architecture, Positions
from naflex_deploy.compiler.model.attention import masked_attention
from naflex_deploy.core.pack import Pack
from tests.support.packs import inputs, random_images

SMALL = Architecture(64, 2, 2, 160, 4, None, pooling="none")
LARGE = Architecture(1152, 27, 16, 4304, 14, Positions((64, 64)))


@pytest.mark.parametrize("gated", [False, True])
def test_operations_are_those_that_torch_counts(gated: bool) -> None:
    a = replace(SMALL, gated_mlp=gated)
    model = random_checkpoint(a).model(("tokens",), masked_attention)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(*inputs(model, Pack.of(random_images([(15, 20)], 4))))
    embedding = 2 * 300 * a.patch_values * a.width
    assert counter.get_total_flops() - embedding == pytest.approx(operations(a, 300), rel=0.01)


def test_the_largest_image_of_a_large_tower_is_smaller_and_above_its_table() -> None:
    assert affordable(SMALL, 16384) == 16384
    assert affordable(LARGE, 4096) == 4096
    assert 70**2 < affordable(LARGE, 16384) < 80**2
