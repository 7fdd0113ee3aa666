"""A `PackedNaFlexViT` as it stands in memory: one trained here, or with options that no published family has."""

from __future__ import annotations

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.model.packed_vit import PIXEL_CENTRE, PackedNaFlexViT
from naflex_deploy.core.preprocessing import Preprocessing


def read_module(module: PackedNaFlexViT) -> Checkpoint:
    """Read a packed model, whose projection takes pixels minus `PIXEL_CENTRE`.

    With mean and standard deviation of ½, normalised pixels are those divided by `PIXEL_CENTRE`.
    """
    weights = {name: tensor.detach().cpu().float().contiguous() for name, tensor in module.state_dict().items()}
    weights["embed.weight"] = weights["embed.weight"] * PIXEL_CENTRE
    a = module.architecture
    return Checkpoint("PackedNaFlexViT", a, weights, Preprocessing(patch_size=a.patch_size))
