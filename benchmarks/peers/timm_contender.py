"""timm's NaFlexVit with the weights of a SigLIP2-NaFlex, as a contender."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

import tests.support.imports  # noqa: F401  makes transformers importable beside any build of torch

from transformers import Siglip2VisionConfig, Siglip2VisionModel  # isort: skip

from benchmarks.peers.contenders import Contender, Images, Pooled, padded


def timm_model(source: Siglip2VisionModel, *, one_by_one: bool = False) -> Contender:
    """timm's NaFlexVit with the same weights."""
    import timm

    config, weights = source.config, source.state_dict()
    own = timm.create_model(
        "naflexvit_base_patch16_siglip",
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        num_classes=0,
    ).eval()
    own.load_state_dict(dict(_timm_weights(weights, config)))

    def bind(images: Images) -> Callable[[], Pooled]:
        batches = []
        for part in [[image] for image in images] if one_by_one else [images]:
            batch = padded(part, torch.float32)
            coords = torch.zeros(*batch["pixel_values"].shape[:2], 2, dtype=torch.int64)
            for row, image in enumerate(part):
                place = np.stack(np.divmod(np.arange(len(image)), image.grid_hw[1]), 1)
                coords[row, : len(image)] = torch.from_numpy(place)
            valid = batch["pixel_attention_mask"].bool()
            batches.append({"patches": batch["pixel_values"], "patch_coord": coords, "patch_valid": valid})

        def call() -> Pooled:
            with torch.inference_mode():
                return np.concatenate([own(batch).numpy() for batch in batches])

        return call

    return Contender("fp32", False, bind)


def _timm_weights(weights: dict[str, torch.Tensor], config: Siglip2VisionConfig) -> Iterator[tuple[str, torch.Tensor]]:
    prefix = "vision_model." if any(name.startswith("vision_model.") for name in weights) else ""
    weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    width, side = config.hidden_size, round(config.num_patches**0.5)
    yield "embeds.pos_embed", weights["embeddings.position_embedding.weight"].view(1, side, side, width)
    for kind in ("weight", "bias"):
        yield f"embeds.proj.{kind}", weights[f"embeddings.patch_embedding.{kind}"]
        yield f"norm.{kind}", weights[f"post_layernorm.{kind}"]
        for i in range(config.num_hidden_layers):
            theirs, ours = f"encoder.layers.{i}", f"blocks.{i}"
            qkv = [weights[f"{theirs}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            yield f"{ours}.attn.qkv.{kind}", torch.cat(qkv)
            yield f"{ours}.attn.proj.{kind}", weights[f"{theirs}.self_attn.out_proj.{kind}"]
            for number in (1, 2):
                yield f"{ours}.norm{number}.{kind}", weights[f"{theirs}.layer_norm{number}.{kind}"]
                yield f"{ours}.mlp.fc{number}.{kind}", weights[f"{theirs}.mlp.fc{number}.{kind}"]
                yield f"attn_pool.mlp.fc{number}.{kind}", weights[f"head.mlp.fc{number}.{kind}"]
        in_proj = weights[f"head.attention.in_proj_{kind}"]
        yield f"attn_pool.q.{kind}", in_proj[:width]
        yield f"attn_pool.kv.{kind}", in_proj[width:]
        yield f"attn_pool.proj.{kind}", weights[f"head.attention.out_proj.{kind}"]
        yield f"attn_pool.norm.{kind}", weights[f"head.layernorm.{kind}"]
    yield "attn_pool.latent", weights["head.probe"].view(1, 1, width)


# The packed model, for us and for OpenVINO
