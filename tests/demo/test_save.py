"""Training saves the model that it trained, in transformers' format."""

from __future__ import annotations

import numpy as np
import torch
from transformers import Siglip2ForImageClassification

from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.demo.draw import KINDS
from naflex_deploy.demo.save import save
from naflex_deploy.demo.train import new_model


def test_transformers_computes_the_same_logits(tmp_path):
    torch.manual_seed(0)
    model, attention = new_model()
    save(model, KINDS, tmp_path / "saved")
    theirs = Siglip2ForImageClassification.from_pretrained(tmp_path / "saved").eval()
    rng = np.random.default_rng(0)
    images = [Patches(rng.integers(0, 256, (h * w, 768), np.uint8), (h, w)) for h, w in ((16, 16), (40, 6), (3, 9))]
    pack = Pack.of(images)
    attention.lengths = np.diff(pack.offsets).tolist()
    with torch.inference_mode():
        ours = model(*(torch.from_numpy(pack.view(role)) for role in model.roles))["logits"]
        for row, image in zip(ours, images, strict=True):
            expected = theirs(
                pixel_values=(torch.from_numpy(image.pixels).float()[None] - 127.5) / 127.5,
                pixel_attention_mask=torch.ones(1, len(image), dtype=torch.int32),
                spatial_shapes=torch.tensor([image.grid_hw]),
            ).logits[0]
            torch.testing.assert_close(row, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
