"""What a checkpoint is said to be."""

from __future__ import annotations

import pytest
from transformers import Siglip2ForImageClassification

from naflex_deploy.compiler.checkpoints.describe import describe
from naflex_deploy.core.errors import NoCheckpointError
from tests.support.naflexvit import configured
from tests.support.siglip2 import small


def test_a_directory(tmp_path):
    original = small(Siglip2ForImageClassification)
    original.save_pretrained(tmp_path)
    found = describe(tmp_path)
    assert found.buildable
    assert found.reason == ""
    assert found.labels == ("cat", "dog", "newt")
    assert found.options["width"] == 96
    assert found.options["pooling"] == "mean"
    assert "rope" not in found.options
    assert found.outputs[:3] == ("tokens", "pooled", "logits")
    head = sum(parameter.numel() for parameter in original.vision_model.head.parameters())
    assert found.parameters == sum(parameter.numel() for parameter in original.parameters()) - head


def test_options_that_a_plain_model_lacks():
    found = describe(configured(qk_norm=True, rope_type="axial", class_token=True))
    assert found.options["qk_norm"] is True
    assert found.options["rope"].kind == "axial"


@pytest.mark.parametrize(("name", "parameters"), [("siglip2-so400m", 428), ("naflexvit_giant_patch16_radio_v3", 1160)])
def test_random_weights_are_not_drawn(name, parameters):
    """Names and sizes, in millions; a giant would take a minute and 5 GB."""
    assert round(describe(f"random:{name}").parameters / 1e6, -1) == pytest.approx(parameters, abs=20)


def test_what_cannot_be_built(tmp_path):
    found = describe(configured(attn_layer="diff"))
    assert not found.buildable
    assert "attn_layer = DiffAttention is not supported" in found.reason
    assert found.options == {}
    with pytest.raises(NoCheckpointError, match="no model at 'nowhere'"):
        describe("nowhere")
    with pytest.raises(NoCheckpointError, match="no directory 'google/siglip2'") as caught:
        describe("google/siglip2")
    assert caught.value.hint.endswith("give hf:google/siglip2")
