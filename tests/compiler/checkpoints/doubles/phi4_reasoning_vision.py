"""microsoft/Phi-4-reasoning-vision-15B: SigLIP2-NaFlex read one layer before its end, and two matrices with a GELU.

Sources:
- the checkpoint's own modeling_phi4_visionr.py, as NVIDIA/TensorRT-LLM restates it in
  tensorrt_llm/_torch/auto_deploy/models/custom/modeling_phi4_visionr.py at a51433ba (2026): `select_layer = -2` of
  the hidden states, which come before the last norm (Phi4VisionTower); the projector "mlp2x_gelu" is Linear, GELU,
  Linear with biases, and its GELU is torch's own, the erf form (build_vision_projector); one token a patch, nothing
  is merged;
- vllm-project/vllm, vllm/model_executor/models/phi4siglip.py at 055e47c2: the names
  `model.vision_tower.vision_tower.` and `model.mm_projector.0`, `.2` (hf_to_vllm_mapper);
- ggml-org/llama.cpp, conversion/phi.py at 7bca1fd9 (Phi4VisionMmprojModel): the name ends in
  `vision_model.embeddings.position_embedding.weight`, the pooling head and the last norm are stored and skipped, and
  preprocessor_config.json holds `patch_size`, `min_num_patches` and `max_num_patches`;
- samyfodil/jitllm, scripts/phi4visiongold.py at cd3ef386: `image_processor_type` and the other fields of
  preprocessor_config.json, and that every tensor of transformers' Siglip2VisionModel is in the checkpoint;
- config.json: the flat fields of Phi4VisionRConfig in the file of TensorRT-LLM above. `vision_config` has neither
  `patch_size` nor `image_size` (_infer_siglip_patch_size there; onnxruntime/mobius pull request 85, 2026-04-02).

Not found: config.json itself. That `vision_config` also leaves out `num_patches`, `layer_norm_eps`, `hidden_act` and
`num_channels` is a conclusion: transformers leaves out what equals its default, and `patch_size` is left out. The
weights are published in bfloat16; here they are float32, so that a comparison measures the formulas alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from tests.compiler.checkpoints.doubles.parts import Image, Outputs, randomize, write
from tests.compiler.checkpoints.doubles.siglip2 import Encoder

CONFIG: dict[str, Any] = {
    "architectures": ["Phi4ForCausalLMV"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {
        "AutoConfig": "modeling_phi4_visionr.Phi4VisionR",
        "AutoModelForCausalLM": "modeling_phi4_visionr.Phi4ForCausalLMV",
    },
    "bos_token_id": 0,
    "embd_pdrop": 0.0,
    "eos_token_id": 1,
    "freeze_mm_mlp_adapter": False,
    "hidden_act": "silu",
    "hidden_size": 24,
    "image_aspect_ratio": "square",
    "initializer_range": 0.02,
    "intermediate_size": 48,
    "max_num_patches": 3600,
    "max_position_embeddings": 32768,
    "min_num_patches": 256,
    "mm_hidden_size": 32,
    "mm_projector_lr": None,
    "mm_projector_type": "mlp2x_gelu",
    "mm_vision_tower": "google/siglip2-so400m-patch16-naflex",
    "model_type": "phi4-siglip",
    "num_attention_heads": 4,
    "num_hidden_layers": 1,
    "num_key_value_heads": 2,
    "original_max_position_embeddings": 32768,
    "pad_token_id": 2,
    "partial_rotary_factor": 1.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 500000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "tokenizer_model_max_length": 16384,
    "tokenizer_padding_side": "right",
    "torch_dtype": "bfloat16",
    "tune_mm_mlp_adapter": False,
    "unfreeze_vision_tower": True,
    "use_cache": True,
    "use_mm_proj": True,
    "use_s2": False,
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 56,
        "model_type": "siglip2_vision_model",
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
    },
    "vocab_size": 16,
}
PREPROCESSOR: dict[str, Any] = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "Siglip2ImageProcessorNoUpscale",
    "image_std": [0.5, 0.5, 0.5],
    "max_num_patches": 3600,
    "min_num_patches": 256,
    "patch_size": 16,
    "processor_class": "Phi4VisionRProcessor",
    "resample": 2,
    "rescale_factor": 1 / 255,
}
LANGUAGE = {
    "model.embed_tokens.weight": (16, 24),
    "model.layers.0.self_attn.qkv_proj.weight": (48, 24),
    "model.norm.weight": (24,),
    "lm_head.weight": (16, 24),
}
PATCH_SIZE = 16


class Model(nn.Module):
    """The tower and the projector under the names of the whole model."""

    def __init__(self) -> None:
        super().__init__()
        text, vision = CONFIG["hidden_size"], CONFIG["mm_hidden_size"]
        tower = nn.ModuleDict({"vision_model": Encoder(CONFIG["vision_config"], head=True)})
        projector = nn.Sequential(nn.Linear(vision, text), nn.GELU(), nn.Linear(text, text))
        self.model = nn.ModuleDict({"vision_tower": nn.ModuleDict({"vision_tower": tower}), "mm_projector": projector})

    def forward(self, images: Sequence[Image]) -> list[Outputs]:
        """Return each image's tokens [h * w, D] and its projected tokens [h * w, T], both row by row."""
        tower = self.model["vision_tower"]["vision_tower"]["vision_model"]
        tokens = [tower.hidden_states(image)[-2] for image in images]
        return [Outputs(each, self.model["mm_projector"](each)) for each in tokens]


def make(directory: Path, seed: int = 0) -> Model:
    """Write a checkpoint with random weights to `directory` and return its model, in float32."""
    model = Model()
    randomize(model, seed, ("q_proj", "k_proj"))
    write(directory, model, CONFIG, PREPROCESSOR, LANGUAGE)
    return model
