#!/usr/bin/env bash
# Pillow 13.0.0 resizes the height before the width where the height shrinks much more; Pillow 12.3.0 always resizes the
# width first. With 8-bit pixels between the passes, the same call gives other pixels in the two versions.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >resize.py <<'PYTHON'
import sys

import numpy as np
from PIL import Image, __version__

image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 300, 3), dtype=np.uint8))
size, bicubic = (280, 100), Image.Resampling.BICUBIC
found = np.asarray(image.resize(size, bicubic)).astype(int)
width_first = np.asarray(image.resize((280, 900), bicubic).resize(size, bicubic)).astype(int)
height_first = np.asarray(image.resize((300, 100), bicubic).resize(size, bicubic)).astype(int)
differences = [int(np.abs(found - other).max()) for other in (width_first, height_first)]
print(f"Pillow {__version__}: differs from width first by {differences[0]}, from height first by {differences[1]}")
assert (differences[0] == 0) == (sys.argv[1] == "width") and (differences[1] == 0) == (sys.argv[1] == "height")
PYTHON
for pair in 12.3.0:width 13.0.0:height; do
  python3 -m venv "environment-${pair%%:*}"
  "environment-${pair%%:*}/bin/pip" install --quiet "pillow==${pair%%:*}" numpy==2.4.6
  "environment-${pair%%:*}/bin/python" resize.py "${pair##*:}"
done
