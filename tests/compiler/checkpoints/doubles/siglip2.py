"""The SigLIP2-NaFlex encoder as Phi-4-reasoning-vision and Isaac hold it.

Sources, which agree with each other:
- perceptron-ai-inc/perceptron, huggingface/modular_isaac.py at 122a710f (2025-09-23): the module tree and the whole
  forward pass (Siglip2VariableSequenceEmbeddings, Siglip2VariableLengthAttention, IsaacSiglip2EncoderLayer);
- NVIDIA/TensorRT-LLM, tensorrt_llm/_torch/auto_deploy/models/custom/modeling_phi4_visionr.py at a51433ba (2026): the
  same for microsoft/Phi-4-reasoning-vision-15B, with its pooling head (Phi4VisionSiglip2*);
- vllm-project/vllm, vllm/model_executor/models/isaac.py at 0330e893.

Positions: the square table is resized to each grid by interpolate(mode="bilinear", align_corners=False,
antialias=True). There is no rotary embedding. Blocks normalize first; the norms' eps is `layer_norm_eps`, 1e-6 by
default; the activation is `hidden_act`, "gelu_pytorch_tanh" by default, the tanh form of GELU. A patch is flattened
in the order (row, column, channel): patchify_vision of modular_isaac.py, and llama.cpp's conversion/phi.py, which
reads the matrix so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from tests.compiler.checkpoints.doubles.parts import Image, attend

# What Siglip2VisionConfig of transformers takes for a field that config.json leaves out.
DEFAULTS = {"patch_size": 16, "num_patches": 256, "num_channels": 3, "layer_norm_eps": 1e-6}


class Embeddings(nn.Module):
    def __init__(self, size: Mapping[str, Any]) -> None:
        super().__init__()
        self.patch_embedding = nn.Linear(size["num_channels"] * size["patch_size"] ** 2, size["hidden_size"])
        self.position_embedding = nn.Embedding(size["num_patches"], size["hidden_size"])

    def forward(self, image: Image) -> Tensor:
        table = self.position_embedding.weight
        side = round(len(table) ** 0.5)
        resized = interpolate(
            table.T.reshape(1, -1, side, side), size=image.grid, mode="bilinear", align_corners=False, antialias=True
        )
        return self.patch_embedding(image.patches.flatten(1)) + resized[0].flatten(1).T


class Attention(nn.Module):
    def __init__(self, size: Mapping[str, Any]) -> None:
        super().__init__()
        self.heads = size["num_attention_heads"]
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            self.add_module(name, nn.Linear(size["hidden_size"], size["hidden_size"]))

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            projection(tokens).unflatten(-1, (self.heads, -1)) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.out_proj(attend(query, key, value))


class Mlp(nn.Module):
    def __init__(self, size: Mapping[str, Any]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(size["hidden_size"], size["intermediate_size"])
        self.fc2 = nn.Linear(size["intermediate_size"], size["hidden_size"])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(gelu(self.fc1(tokens), approximate="tanh"))


class Layer(nn.Module):
    def __init__(self, size: Mapping[str, Any]) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(size["hidden_size"], eps=size["layer_norm_eps"])
        self.self_attn = Attention(size)
        self.layer_norm2 = nn.LayerNorm(size["hidden_size"], eps=size["layer_norm_eps"])
        self.mlp = Mlp(size)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.self_attn(self.layer_norm1(tokens))
        return tokens + self.mlp(self.layer_norm2(tokens))


class Head(nn.Module):
    """The pooling head's tensors. Neither model computes it, but transformers' class stores it with the tower."""

    def __init__(self, size: Mapping[str, Any]) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, size["hidden_size"]))
        self.attention = nn.MultiheadAttention(size["hidden_size"], size["num_attention_heads"], batch_first=True)
        self.layernorm = nn.LayerNorm(size["hidden_size"], eps=size["layer_norm_eps"])
        self.mlp = Mlp(size)


class Encoder(nn.Module):
    def __init__(self, vision_config: Mapping[str, Any], head: bool) -> None:
        super().__init__()
        size = DEFAULTS | dict(vision_config)
        self.embeddings = Embeddings(size)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Layer(size) for _ in range(size["num_hidden_layers"]))})
        self.post_layernorm = nn.LayerNorm(size["hidden_size"], eps=size["layer_norm_eps"])
        if head:
            self.head = Head(size)

    def hidden_states(self, image: Image) -> list[Tensor]:
        """Return [h * w, D] after the embedding and after each layer, before the last norm."""
        states = [self.embeddings(image)]
        for layer in self.encoder["layers"]:
            states.append(layer(states[-1]))
        return states
