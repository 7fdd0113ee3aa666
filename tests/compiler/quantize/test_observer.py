"""The observed activations are the inputs of the reference model's linear layers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from naflex_deploy.compiler.checkpoints.random_weights import random_checkpoint
from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.compiler.quantize.observer import Observer
from tests.support.graphs import CASES, FAMILIES, GRIDS, pack, portable
from tests.support.packs import inputs


@contextmanager
def reading(model: nn.Module) -> Iterator[dict[str, np.ndarray]]:
    """Record the inputs of every linear layer, by site, while the block runs."""
    found: dict[str, np.ndarray] = {}

    def hook(site: str) -> object:
        return lambda module, arguments: found.__setitem__(site, arguments[0].numpy())

    handles = [
        module.register_forward_pre_hook(hook(f"{name}.input"))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    yield found
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", CASES)
def test_every_linear_layer_of_every_family(name: str) -> None:
    before = sorted(portable(name).parent.iterdir())
    observer = Observer(portable(name), threads=1)
    assert sorted(portable(name).parent.iterdir()) == before
    model = random_checkpoint(FAMILIES[name]).model(attention=ragged_attention, outputs=outputs(name))
    for grids in (GRIDS, ((4, 5),) * 3):
        one = pack(name, grids, tail=0)
        with reading(model) as wanted, torch.inference_mode():
            model(*inputs(model, one))
        # The query of a probe and values computed from positions do not depend on pixels, so they are not activations.
        for site in [site for site in wanted if site.startswith(("pool.query", "coordinates", "positions"))]:
            del wanted[site]
        found = {site: values for names, values in observer.activations(one) for site in names}
        assert found.keys() == wanted.keys()
        for site, values in found.items():
            reference = wanted[site].reshape(values.shape)
            assert np.abs(values - reference).max() <= 1e-5 * np.abs(reference).max(), site


def test_layers_that_read_one_tensor_share_a_site() -> None:
    sites = Observer(portable("siglip2"), threads=1).sites
    assert tuple(f"blocks.1.{layer}.input" for layer in ("query", "key", "value")) in sites
    assert ("pool.key.input", "pool.value.input") in sites
    assert [names[0] for names in sites[:5]] == [
        "embed.input",
        "blocks.0.query.input",
        "blocks.0.out.input",
        "blocks.0.mlp.fc1.input",
        "blocks.0.mlp.fc2.input",
    ]
    assert sites[-1] == ("classifier.input",)


def outputs(name: str) -> tuple[str, ...]:
    return tuple(output for output in FAMILIES[name].outputs if not output.startswith("tokens:"))


def test_a_layer_may_read_what_a_block_begins_with(tmp_path: Path) -> None:
    """As the projector of Phi-4-reasoning-vision does."""
    shutil.copytree(portable("siglip2").parent, tmp_path, dirs_exist_ok=True)
    path = tmp_path / portable("siglip2").name
    graph = onnx.load(path, load_external_data=False)
    norm = next(node for node in graph.graph.node if node.name == "blocks.1.norm1/LayerNormalization")
    layer = next(node for node in graph.graph.node if node.name == "blocks.1.mlp.fc1/Gemm")
    reads = helper.make_node("Gemm", [norm.input[0], *layer.input[1:]], ["read"], name="reads/Gemm", transB=1)
    graph.graph.node.append(reads)
    graph.graph.output.append(helper.make_tensor_value_info("read", TensorProto.FLOAT, None))
    onnx.save(graph, path)

    model = random_checkpoint(FAMILIES["siglip2"]).model(attention=ragged_attention, outputs=outputs("siglip2"))
    one = pack("siglip2", GRIDS, tail=0)
    begins = []
    model.blocks[1].norm1.register_forward_pre_hook(lambda module, arguments: begins.append(arguments[0].numpy()))
    with torch.inference_mode():
        model(*inputs(model, one))
    found = {site: values for names, values in Observer(path, threads=1).activations(one) for site in names}
    assert np.abs(found["reads.input"] - begins[0]).max() <= 1e-5 * np.abs(begins[0]).max()
    assert "blocks.1.mlp.fc2.input" in found
