"""PerceptronAI/Isaac-0.1 and Isaac-0.2: SigLIP2-NaFlex, squares of 2 x 2 tokens side by side, two matrices with a SiLU.

Sources:
- perceptron-ai-inc/perceptron, huggingface/modular_isaac.py at 122a710f (2025-09-23), the code of Isaac 0.1: the
  tokens are those after `post_layernorm` (Siglip2SequenceVisionTransformer); pixel_shuffle_varlen puts the tokens of
  each square of `pixel_shuffle_scale_factor` ** 2 side by side, row by row, and leaves the squares row by row; the
  projector is Linear(4 D, 16 D), SiLU, Linear(16 D, T) without biases, at `vision_embedding.1` and `.3` (IsaacModel);
  there is no head; IsaacConfig keeps `vision_patch_size` under the name `video_patch_size`;
- vllm-project/vllm, vllm/model_executor/models/isaac.py at 0330e893: the names `model.vision_embedding.0`, `.1`, `.3`
  for both versions, the language model at `model.` in one and at `model.text_model.` in the other
  (hf_to_vllm_mapper);
- aws-neuron/neuronx-distributed-inference, contrib/models/Isaac-0.2-2B/src/isaac_neuron/modeling_isaac.py at
  5bc7a85d: Isaac 0.2 holds `model.vision_embedding.0.*`, `.1.weight`, `.3.weight`, `model.text_model.*`,
  `lm_head.weight` and `model.rotary_emb.*`, no head, and a config.json with `text_config`;
- huggingface/transformers, src/transformers/models/isaac/modular_isaac.py at 017a92e1: an Embedding [num_patches, D]
  for the positions, `isaac_vision` as the later `model_type` of `vision_config`, and the fields of
  IsaacImageProcessor.

Not found: either config.json and preprocessor_config.json. The fields are those of the classes that write the files.
The code of 0.1 has no image processor: it takes the sizes from config.json, so no preprocessor_config.json is written
for it. Which spelling of `vision_config.model_type` 0.2 has is not known; it is given the later one here. The weights
are float32, so that a comparison measures the formulas alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torch import nn

from tests.compiler.checkpoints.doubles.parts import Image, Outputs, merge, randomize, write
from tests.compiler.checkpoints.doubles.siglip2 import Encoder

Version = Literal["0.1", "0.2"]

PATCH_SIZE = 4
_VISION: dict[str, Any] = {
    "attention_dropout": 0.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "intermediate_size": 56,
    "layer_norm_eps": 1e-06,
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 2,
    "num_patches": 64,
    "patch_size": PATCH_SIZE,
    "pixel_shuffle_scale_factor": 2,
}
_TEXT: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 16,
    "hidden_act": "silu",
    "hidden_size": 24,
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": None, "rope_type": "default"},
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 16,
}
_IMAGES: dict[str, Any] = {
    "max_sequence_length": 16384,
    "pixel_shuffle_scale": 2,
    "video_patch_size": PATCH_SIZE,
    "vision_max_num_patches": 6144,
    "vision_min_num_patches": 256,
    "vision_token": "<image>",
}


def config(version: Version) -> dict[str, Any]:
    """Return config.json: flat for 0.1, with the language model's fields once more in `text_config` for 0.2."""
    common = (
        _TEXT
        | _IMAGES
        | {
            "architectures": ["IsaacForConditionalGeneration"],
            "auto_map": {
                "AutoConfig": "modular_isaac.IsaacConfig",
                "AutoModelForCausalLM": "modular_isaac.IsaacForConditionalGeneration",
                "AutoProcessor": "modular_isaac.IsaacProcessor",
            },
            "model_type": "isaac",
            "torch_dtype": "float32",
        }
    )
    if version == "0.1":
        return common | {"vision_config": _VISION | {"model_type": "pixel_shuffle_siglip2"}}
    return common | {
        "text_config": _TEXT | {"model_type": "qwen3"},
        "vision_attn_implementation": None,
        "vision_config": _VISION | {"model_type": "isaac_vision"},
        "vision_mean": [0.5, 0.5, 0.5],
        "vision_rescale_factor": 1 / 255,
        "vision_std": [0.5, 0.5, 0.5],
    }


def preprocessor(version: Version) -> dict[str, Any] | None:
    """Return preprocessor_config.json, which the code of 0.1 does not write."""
    if version == "0.1":
        return None
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "IsaacImageProcessorFast",
        "image_std": [0.5, 0.5, 0.5],
        "max_num_patches": 6144,
        "min_num_patches": 256,
        "patch_size": PATCH_SIZE,
        "pixel_shuffle_scale": 2,
        "processor_class": "IsaacProcessor",
        "resample": 2,
        "rescale_factor": 1 / 255,
    }


def language(version: Version) -> dict[str, tuple[int, ...]]:
    """Return some of the language model's names, with shapes."""
    inner = {"embed_tokens.weight": (16, 24), "layers.0.self_attn.q_proj.weight": (32, 24), "norm.weight": (24,)}
    if version == "0.1":
        return {f"model.{name}": shape for name, shape in inner.items()} | {"lm_head.weight": (16, 24)}
    text = {f"model.text_model.{name}": shape for name, shape in inner.items()}
    return text | {"lm_head.weight": (16, 24), "model.rotary_emb.inv_freq": (8,)}


class Model(nn.Module):
    """The tower and the projector under the names of the whole model."""

    def __init__(self) -> None:
        super().__init__()
        self.side = _VISION["pixel_shuffle_scale_factor"]
        wide = _VISION["hidden_size"] * self.side**2
        self.model = nn.ModuleDict(
            {
                "vision_embedding": nn.Sequential(
                    Encoder(_VISION, head=False),
                    nn.Linear(wide, 4 * wide, bias=False),
                    nn.SiLU(),
                    nn.Linear(4 * wide, _TEXT["hidden_size"], bias=False),
                )
            }
        )

    def forward(self, images: Sequence[Image]) -> list[Outputs]:
        """Return each image's tokens [h * w, D] and its projected tokens [h * w / 4, T], both row by row."""
        tower, project = self.model["vision_embedding"][0], self.model["vision_embedding"][1:]
        results = []
        for image in images:
            tokens = tower.post_layernorm(tower.hidden_states(image)[-1])
            results.append(Outputs(tokens, project(merge(tokens, image.grid, self.side).flatten(1))))
        return results


def make(directory: Path, version: Version, seed: int = 0) -> Model:
    """Write a checkpoint of `version` with random weights to `directory` and return its model, in float32."""
    model = Model()
    randomize(model, seed, ("q_proj", "k_proj"))
    write(directory, model, config(version), preprocessor(version), language(version))
    return model
