#!/usr/bin/env bash
# torch 2.13.0, CPU: antialiased bilinear interpolation to a grid of one column depends on the memory layout.
#
# One would expect `F.interpolate(table, (24, 1), mode="bilinear", antialias=True)` to give the same values whether the
# tensor is contiguous or channels_last, as it does for every other size. To (H, 1) with H other than that of the input,
# the contiguous layout is off by up to 0.17 for values between 0 and 1; channels_last equals the closed form of the
# triangle filter to 2e-7. A vision transformer that resizes a 16x16 position table to a receipt one patch wide gets
# wrong positions from it. Grids of one row are right in both layouts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet torch==2.13.0 numpy==2.4.6
environment/bin/python - <<'PYTHON'
import numpy as np
import torch
import torch.nn.functional as F


def triangle(source, target):
    """[target, source] rows of the antialiased linear filter with half-pixel centres."""
    step = source / target
    width = max(1.0, step)
    distance = np.abs(np.arange(source) + 0.5 - (np.arange(target)[:, None] + 0.5) * step) / width
    weights = np.maximum(0, 1 - distance)
    return weights / weights.sum(1, keepdims=True)


torch.manual_seed(0)
table = torch.rand(1, 8, 16, 16)
last = table.contiguous(memory_format=torch.channels_last)
print("torch", torch.__version__)
errors = {}
for size in ((8, 1), (24, 1), (16, 1), (1, 24), (24, 2)):
    rows, columns = triangle(16, size[0]), triangle(16, size[1])
    expected = np.einsum("hi,bcij,wj->bchw", rows, table.numpy(), columns)
    found = [F.interpolate(one, size, mode="bilinear", antialias=True).numpy() for one in (table, last)]
    errors[size] = [float(np.abs(one - expected).max()) for one in found]
    print(f"to {size}: contiguous off by {errors[size][0]:.1e}, channels_last by {errors[size][1]:.1e}")
wrong = {size for size, (contiguous, _) in errors.items() if contiguous > 0.05}
assert wrong == {(8, 1), (24, 1)}, wrong
assert max(channels_last for _, channels_last in errors.values()) < 1e-6
PYTHON
