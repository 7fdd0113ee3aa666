#!/usr/bin/env bash
# transformers 5.23.0: Siglip2's image processor does not convert images, and fails on every mode but RGB.
#
# Most image processors of the library convert to RGB by default. Siglip2ImageProcessorPil leaves `do_convert_rgb` unset,
# so a greyscale scan, a palette PNG or a picture with an alpha channel raises an error about the mean's length in
# normalisation. With `do_convert_rgb=True` in the call all of them work.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet torch==2.13.0 transformers==5.23.0 pillow==12.3.0 numpy==2.4.6
environment/bin/python - <<'PYTHON'
import numpy as np
import transformers
from PIL import Image
from transformers import Siglip2ImageProcessorPil

picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))
processor = Siglip2ImageProcessorPil()
outcomes = {}
for mode in ("RGB", "L", "LA", "P", "RGBA", "1"):
    image = picture.convert(mode)
    try:
        processor(image, return_tensors="pt")
        outcomes[mode] = "works"
    except ValueError as error:
        outcomes[mode] = str(error)
    processor(image, do_convert_rgb=True, return_tensors="pt")
print("transformers", transformers.__version__)
for mode, outcome in outcomes.items():
    print(f"{mode}: {outcome}; with do_convert_rgb=True it works")
assert outcomes.pop("RGB") == "works"
assert all("mean must have" in outcome for outcome in outcomes.values()), outcomes
PYTHON
