#!/usr/bin/env bash
# transformers 5.23.0: an image processor takes the name of a filter, and resizes with another one.
#
# `resample: "bicubic"` in preprocessor_config.json is accepted by Siglip2's Pillow processor, kept as the string, and the
# image is resized with the bilinear filter; 3, Pillow's number for bicubic, is bicubic. Beside it, `null` is not the
# default: `do_rescale: null` turns rescaling off. Nothing warns of either, and the vectors differ.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet transformers==5.23.0 pillow==12.3.0 numpy==2.4.6
environment/bin/python - <<'PYTHON'
import json
from pathlib import Path

import numpy as np
import transformers
from PIL import Image
from transformers import Siglip2ImageProcessorPil

image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 100, 3), dtype=np.uint8))


def pixels(**settings):
    folder = Path("model")
    folder.mkdir(exist_ok=True)
    content = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 8} | settings
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return Siglip2ImageProcessorPil.from_pretrained(folder)(images=[image], max_num_patches=40, return_tensors="np")[
        "pixel_values"
    ]


by_name, bilinear, bicubic = pixels(resample="bicubic"), pixels(resample=2), pixels(resample=3)
print(f"transformers {transformers.__version__}")
print("'bicubic' equals 2 (bilinear):", bool((by_name == bilinear).all()))
print("'bicubic' equals 3 (bicubic):", bool((by_name == bicubic).all()))
print(f"largest value: {bilinear.max():.2f}; with do_rescale null: {pixels(do_rescale=None).max():.2f}")
assert (by_name == bilinear).all()
assert not (by_name == bicubic).all()
assert bilinear.max() <= 1
assert pixels(do_rescale=None).max() > 100
PYTHON
