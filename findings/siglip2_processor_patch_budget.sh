#!/usr/bin/env bash
# transformers 5.23.0: Siglip2Processor ignores the patch budget that its own image processor was made with.
#
# `Siglip2ImageProcessor(max_num_patches=64)` gives 64 patches an image. Put into a `Siglip2Processor` with a tokenizer,
# the same object gives 256: the processor passes a default of its own over the image processor's setting, so a
# checkpoint saved with another budget is run with 256 and nothing says so. Only `max_num_patches` in the call counts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 pillow==12.3.0 numpy==2.4.6 tokenizers==0.23.3
environment/bin/python - <<'PYTHON'
import numpy as np
import transformers
from PIL import Image
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Siglip2ImageProcessorPil, Siglip2Processor

image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1, "<pad>": 2}, unk_token="<unk>"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>")
images = Siglip2ImageProcessorPil(max_num_patches=64)
both = Siglip2Processor(image_processor=images, tokenizer=tokenizer)


def patches(batch):
    return batch["pixel_values"].shape[1]


alone = patches(images(image, return_tensors="pt"))
within = patches(both(images=image, return_tensors="pt"))
asked = patches(both(images=image, max_num_patches=64, return_tensors="pt"))
print(f"transformers {transformers.__version__}: alone {alone}, within Siglip2Processor {within}, asked for in the call {asked}")
assert (alone, within, asked) == (64, 256, 64)
PYTHON
