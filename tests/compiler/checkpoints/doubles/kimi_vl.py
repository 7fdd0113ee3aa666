"""moonshotai/Kimi-VL-A3B: the tower MoonViT, squares of 2 x 2 tokens side by side, two matrices with a GELU.

Sources: the checkpoint's own modeling_kimi_vl.py and configuration_kimi_vl.py, as these carry them:
- vllm-project/vllm, vllm/model_executor/models/moonvit.py at 055e47c2: positions from a table [height, width, D],
  resized by interpolate(mode="bicubic"), so align_corners False and no antialias (Learnable2DInterpPosEmb); rotary in
  two dimensions, base 10000, on neighbouring pairs of a head's values: pair 2 i turns by the column and pair 2 i + 1
  by the row, both at the frequency 10000 ** (-4 i / size) (Rope2DPosEmb, apply_rope); `wqkv` makes queries, then
  keys, then values, each head by head; LayerNorm without an eps, so torch's 1e-5; "gelu_pytorch_tanh" in the blocks;
  biases everywhere (attn_bias=True); `final_layernorm`, then patch_merger: each square's tokens row by row, squares
  row by row;
- vllm-project/vllm, vllm/model_executor/models/kimi_vl.py at 0322cc0e (KimiVLMultiModalProjector): `pre_norm` over
  each token's D values with eps 1e-5, then the square's four tokens side by side, `linear_1`, GELU in its erf form
  (GELUActivation), `linear_2`. Blaizzy/mlx-vlm, mlx_vlm/models/kimi_vl/ at 9b13f522 writes eps 1e-6 in the tower and
  the erf form in the blocks: it differs from the publisher's code in both, which is followed here;
- samyfodil/jitllm, scripts/kimivlgold.py at cd3ef386, which runs the publisher's code: the state's names start with
  `vision_tower.`, `multi_modal_projector.` and `language_model.`, the padding, and a mean and a deviation of 0.5. Its
  text gives the fields of the language model as well.

A patch enters a convolution as [3, P, P]: channel, row, column.

Not found: config.json and preprocessor_config.json themselves. The fields are those of configuration_kimi_vl.py,
which vllm/transformers_utils/configs/kimi_vl.py carries, with `merge_kernel_size` as a list, as in the
`vision_config` of LocateAnything-3B, which was written from moonshotai/MoonViT-SO-400M. The weights are published in
bfloat16; here they are float32, so that a comparison measures the formulas alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate

from tests.compiler.checkpoints.doubles.parts import Image, Outputs, attend, merge, randomize, write

PATCH_SIZE = 14
_VISION: dict[str, Any] = {
    "hidden_size": 48,
    "init_pos_emb_height": 8,
    "init_pos_emb_width": 8,
    "intermediate_size": 72,
    "merge_kernel_size": [2, 2],
    "model_type": "moonvit",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": PATCH_SIZE,
    "torch_dtype": "bfloat16",
}
CONFIG: dict[str, Any] = {
    "architectures": ["KimiVLForConditionalGeneration"],
    "auto_map": {
        "AutoConfig": "configuration_kimi_vl.KimiVLConfig",
        "AutoModel": "modeling_kimi_vl.KimiVLForConditionalGeneration",
        "AutoModelForCausalLM": "modeling_kimi_vl.KimiVLForConditionalGeneration",
    },
    "ignore_index": -100,
    "media_placeholder_token_id": 163605,
    "model_type": "kimi_vl",
    "pad_token_id": 0,
    "text_config": {
        "attention_bias": False,
        "bos_token_id": 163584,
        "eos_token_id": 163585,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": 40,
        "intermediate_size": 64,
        "kv_lora_rank": 16,
        "max_position_embeddings": 131072,
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 16,
        "n_group": 1,
        "n_routed_experts": 4,
        "n_shared_experts": 2,
        "norm_topk_prob": True,
        "num_attention_heads": 2,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 1,
        "num_key_value_heads": 2,
        "pad_token_id": 163839,
        "q_lora_rank": None,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 800000.0,
        "routed_scaling_factor": 2.446,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "v_head_dim": 8,
        "vocab_size": 16,
    },
    "torch_dtype": "bfloat16",
    "vision_config": _VISION,
}
PREPROCESSOR: dict[str, Any] = {
    "auto_map": {
        "AutoImageProcessor": "image_processing_kimi_vl.KimiVLImageProcessor",
        "AutoProcessor": "processing_kimi_vl.KimiVLProcessor",
    },
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "KimiVLImageProcessor",
    "image_std": [0.5, 0.5, 0.5],
    "in_token_limit": 4096,
    "merge_kernel_size": [2, 2],
    "num_pooled_tokens": 1024,
    "pad_input": True,
    "patch_size": PATCH_SIZE,
}
LANGUAGE = {
    "language_model.model.embed_tokens.weight": (16, 40),
    "language_model.model.layers.0.self_attn.q_proj.weight": (32, 40),
    "language_model.model.norm.weight": (40,),
    "language_model.lm_head.weight": (16, 40),
}
THETA = 10000.0


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        height, width = _VISION["init_pos_emb_height"], _VISION["init_pos_emb_width"]
        self.weight = nn.Parameter(torch.zeros(height, width, _VISION["hidden_size"]))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        return interpolate(self.weight.permute(2, 0, 1)[None], size=grid, mode="bicubic")[0].flatten(1).T


def turns(grid: tuple[int, int], size: int, like: Tensor) -> Tensor:
    """Return the rotations [h * w, size / 2] of a head's pairs as complex numbers, in the precision of `like`."""
    frequencies = THETA ** (-torch.arange(0, size, 4, dtype=like.dtype) / size)
    rows, columns = torch.meshgrid(*(torch.arange(length, dtype=like.dtype) for length in grid), indexing="ij")
    angles = torch.stack([columns, rows], dim=-1).reshape(-1, 1, 2) * frequencies[:, None]
    angles = angles.flatten(1)
    return torch.polar(torch.ones_like(angles), angles)


def turn(heads: Tensor, rotations: Tensor) -> Tensor:
    """Return `heads` [tokens, heads, size] with each pair of neighbouring values turned."""
    pairs = torch.view_as_complex(heads.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * rotations[:, None]).flatten(-2)


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc0 = nn.Linear(_VISION["hidden_size"], _VISION["intermediate_size"])
        self.fc1 = nn.Linear(_VISION["intermediate_size"], _VISION["hidden_size"])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc1(gelu(self.fc0(tokens), approximate="tanh"))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        depth = _VISION["hidden_size"]
        self.norm0, self.norm1 = nn.LayerNorm(depth, eps=1e-5), nn.LayerNorm(depth, eps=1e-5)
        self.mlp = Mlp()
        self.wqkv, self.wo = nn.Linear(depth, 3 * depth), nn.Linear(depth, depth)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        heads = self.wqkv(self.norm0(tokens)).unflatten(-1, (3, _VISION["num_attention_heads"], -1))
        query, key, value = heads.unbind(1)
        rotations = turns(grid, query.shape[-1], tokens)
        tokens = tokens + self.wo(attend(turn(query, rotations), turn(key, rotations), value))
        return tokens + self.mlp(self.norm1(tokens))


class Tower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        depth = _VISION["hidden_size"]
        self.patch_embed = nn.ModuleDict(
            {"proj": nn.Conv2d(3, depth, kernel_size=PATCH_SIZE, stride=PATCH_SIZE), "pos_emb": Positions()}
        )
        self.encoder = nn.ModuleDict(
            {
                "blocks": nn.ModuleList(Block() for _ in range(_VISION["num_hidden_layers"])),
                "final_layernorm": nn.LayerNorm(depth, eps=1e-5),
            }
        )

    def forward(self, image: Image) -> Tensor:
        tokens = self.patch_embed["proj"](image.patches.permute(0, 3, 1, 2)).flatten(1)
        tokens = tokens + self.patch_embed["pos_emb"](image.grid)
        for block in self.encoder["blocks"]:
            tokens = block(tokens, image.grid)
        return self.encoder["final_layernorm"](tokens)


class Projector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        depth, (side, _) = _VISION["hidden_size"], _VISION["merge_kernel_size"]
        wide = depth * side**2
        self.pre_norm = nn.LayerNorm(depth, eps=1e-5)
        self.linear_1, self.linear_2 = nn.Linear(wide, wide), nn.Linear(wide, CONFIG["text_config"]["hidden_size"])

    def forward(self, squares: Tensor) -> Tensor:
        return self.linear_2(gelu(self.linear_1(self.pre_norm(squares).flatten(1))))


class Model(nn.Module):
    """The tower and the projector under the names of the whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_tower = Tower()
        self.multi_modal_projector = Projector()

    def forward(self, images: Sequence[Image]) -> list[Outputs]:
        """Return each image's tokens [h * w, D] and its projected tokens [h * w / 4, T], both row by row."""
        results = []
        for image in images:
            tokens = self.vision_tower(image)
            squares = merge(tokens, image.grid, _VISION["merge_kernel_size"][0])
            results.append(Outputs(tokens, self.multi_modal_projector(squares)))
        return results


def make(directory: Path, seed: int = 0) -> Model:
    """Write a checkpoint with random weights to `directory` and return its model, in float32."""
    model = Model()
    randomize(model, seed, ("wqkv",))
    write(directory, model, CONFIG, PREPROCESSOR, LANGUAGE)
    return model
