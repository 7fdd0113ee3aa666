#!/usr/bin/env bash
# FFmpeg (in PyAV 18.1.0) takes the pixel densities of PNG and JPEG for the shape of a pixel itself, and those of TIFF for
# what they are: the same picture with 204 x 98 dots an inch, whose pixels are 2.08 times as high as wide, has a sample
# aspect ratio of 102:49 as PNG or JPEG, and of 49:102 as TIFF. PNG (3rd edition, 11.3.4.3) and JFIF state pixels per unit.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet av==18.1.0 pillow==13.0.0
cat >ratio.py <<'PYTHON'
from fractions import Fraction

import av
from PIL import Image

found = {}
for suffix in ("png", "jpg", "tif"):
    Image.new("RGB", (64, 48)).save(f"fax.{suffix}", dpi=(204, 98))
    with av.open(f"fax.{suffix}") as container:
        frame = next(container.decode(video=0))
        found[suffix] = frame.sample_aspect_ratio if hasattr(frame, "sample_aspect_ratio") else None
        found[suffix] = found[suffix] or container.streams.video[0].sample_aspect_ratio
print({suffix: str(ratio) for suffix, ratio in found.items()})
true = Fraction(98, 204)
assert abs(found["tif"] - true) < 0.01
assert abs(found["png"] - 1 / true) < 0.01
assert abs(found["jpg"] - 1 / true) < 0.01
PYTHON
environment/bin/python ratio.py
