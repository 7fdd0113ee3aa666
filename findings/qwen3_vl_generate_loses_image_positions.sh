#!/usr/bin/env bash
# transformers 5.23.0: `generate` of Qwen3-VL silently gives images the positions of text where `mm_token_type_ids` is
# left out, which `forward` of the same model refuses; and features put into `inputs_embeds` silently lose DeepStack.
#
# Qwen3-VL places the tokens of an image on a grid of (time, row, column). `forward` computes these positions from
# `image_grid_thw` and `mm_token_type_ids`, and raises a ValueError without the latter. `generate` with the same
# arguments goes on with the positions 0, 1, 2, … and answers from them. A caller who computes the image's features
# once and passes them as `inputs_embeds`, as many models allow, gets other logits as well, since the blocks that take
# DeepStack features do not get any; `mm_encoder_outputs` takes them exactly.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 numpy==2.4.6
environment/bin/python - <<'PYTHON'
import torch
import transformers
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

IMAGE = 45
text = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 32}
text |= {"num_key_value_heads": 1, "vocab_size": 50}
text["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [6, 5, 5]}
vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "num_position_embeddings": 64}
vision |= {"out_hidden_size": 64, "deepstack_visual_indexes": [0]}
torch.manual_seed(0)
config = Qwen3VLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, vision_start_token_id=47)
model = Qwen3VLForConditionalGeneration(config).eval()
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.3)

grid = torch.tensor([[1, 4, 12]])
ids = torch.tensor([[1, 47, *[IMAGE] * 12, 2, 3]])
inputs = {"input_ids": ids, "image_grid_thw": grid, "pixel_values": torch.randn(48, 1536)}
kinds = (ids == IMAGE).int()
options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}


def first(**given):
    return model.generate(**given, **options).logits[0]


with torch.inference_mode():
    try:
        model(**inputs)
        refused = False
    except ValueError as error:
        refused = "mm_token_type_ids" in str(error)
    right = first(**inputs, mm_token_type_ids=kinds)
    without = first(**inputs)
    features = model.model.get_image_features(inputs["pixel_values"], grid)
    handed = {"input_ids": ids, "image_grid_thw": grid, "mm_token_type_ids": kinds}
    precomputed = first(**handed, mm_encoder_outputs={"image": features})
    embeds = model.get_input_embeddings()(ids)
    embeds[ids == IMAGE] = torch.cat(list(features.pooler_output))
    positions, _ = model.model.get_rope_index(ids, mm_token_type_ids=kinds, image_grid_thw=grid)
    placed = model(inputs_embeds=embeds, position_ids=positions).logits[:, -1]

lost = float((right - without).abs().max() / right.abs().max())
shallow = float((right - placed).abs().max() / right.abs().max())
exact = float((right - precomputed).abs().max() / right.abs().max())
print(f"transformers {transformers.__version__}: forward without mm_token_type_ids refuses: {refused}")
print(f"generate without them: logits off by {lost:.1%}; inputs_embeds with right positions: {shallow:.1%} off")
print(f"mm_encoder_outputs: {exact:.0e} off")
assert refused and lost > 0.01 and shallow > 0.01 and exact < 1e-5
PYTHON
