"""Random weights under which a wrong model gives visibly wrong results."""

from __future__ import annotations

import math
import re

import torch
from torch import nn

QUERY_KEY = re.compile(r"\b(q_proj|k_proj|attn_pool\.q|attn_pool\.kv|qkv|in_proj_weight)\b")
STACKED = {"qkv": 2 / 3, "in_proj_weight": 2 / 3, "attn_pool.kv": 1 / 2}
"""Part of the rows of a fused projection that make queries and keys."""


@torch.no_grad()
def reseed(module: nn.Module, seed: int = 0, scale: float = 1.0, gain: float = 1.7, probe: float = 1.0) -> nn.Module:
    """Draw every parameter of an original model anew.

    Query and key weights lengthen a vector by ``gain`` and a pooling probe's channels have a deviation of ``probe``,
    so that attention logits have σ ≥ 2, yet not so large that float32 itself is the limit; tokens enter with a
    deviation of about ``scale``, so that a small one shows a wrong ε.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if re.search(r"pos|cls_token|reg_token", name):
            values *= scale
        elif re.search(r"norm.*weight$", name):
            values = (gain if re.search(r"[qk]_norm", name) else 1) + 0.1 * values
        elif re.search(r"gamma|ls\d", name):
            values = 0.5 + 0.1 * values
        elif parameter.ndim == 1:
            values *= 0.1
        elif re.search(r"patch_embed(ding|\.proj)|embeds\.proj", name):
            values *= scale / math.sqrt(parameter[0].numel())
        elif re.search(r"probe|latent", name):
            values *= probe
        else:
            values /= math.sqrt(parameter.shape[-1])
        if parameter.ndim > 1 and (found := QUERY_KEY.search(name)):
            rows = round(len(values) * STACKED.get(found[0], 1.0))
            values[:rows] *= gain
        parameter.copy_(values)
    return module.eval()
