"""What a build would do, without building."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from naflex_deploy.build import checkpoints
from naflex_deploy.build.architecture import Architecture
from naflex_deploy.build.lower import choose, tensorrt
from naflex_deploy.build.lower.tensorrt_attention import choose_form
from naflex_deploy.build.lower.tensorrt_profiles import profile_sizes
from naflex_deploy.build.pipeline import requested_outputs
from naflex_deploy.core.config import Config
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.sessions import tensorrt_library
from naflex_deploy.runtime.sessions.tensorrt_shapes import Sizes

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}


@dataclass(frozen=True)
class PlannedBudget:
    """One pack size.

    Attributes:
        tokens: It holds.
        full_images: Images at the token limit that fit into it.
        memory_bytes: Weights and activations, estimated; ``None`` where the model is unknown.
        attention: What attends to what.
    """

    tokens: int
    full_images: int
    memory_bytes: int | None
    attention: str = "image by image"


@dataclass(frozen=True)
class Plan:
    """What `build` would do."""

    backend: str
    precision: str
    outputs: tuple[str, ...]
    image_tokens: int
    budgets: tuple[PlannedBudget, ...]
    weights_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(config: Config, model: str | None) -> Plan:
    """Resolve backend, precision, budgets and, with a model, memory.

    Raises:
        CheckpointError: The model cannot be read.
        IncompatibleError: No backend can be built here.
    """
    profile = config.profile
    backend, _, precision = choose(profile)
    checkpoint = checkpoints.read(model) if model else None
    prefix = checkpoint.architecture.prefix if checkpoint else 0
    weights = None
    if checkpoint:
        weights = sum(tensor.numel() for tensor in checkpoint.weights.values()) * BYTES[precision]
    image_tokens = profile.image_tokens(backend, prefix)
    sizes = tensorrt_sizes(profile, backend, prefix)
    return Plan(
        backend=backend,
        precision=precision,
        outputs=requested_outputs(profile, checkpoint) if checkpoint else tuple(profile.outputs),
        image_tokens=image_tokens,
        budgets=tuple(
            PlannedBudget(
                budget,
                min(budget // (image_tokens + prefix), profile.packing.max_images),
                weights + _activations(checkpoint.architecture, budget, image_tokens, sizes, BYTES[precision])
                if checkpoint and weights
                else None,
                _attention([one for one in sizes if one["tokens"] == budget]),
            )
            for budget in profile.budgets(backend)
        ),
        weights_bytes=weights,
    )


def tensorrt_sizes(profile: Profile, backend: str, prefix: int) -> list[Sizes]:
    """Sizes of each optimization profile, empty for other backends."""
    if backend not in tensorrt.BACKENDS:
        return []
    *_, form = choose_form(backend, tensorrt_library.installed(backend) or "", profile.budgets(backend))
    return profile_sizes(profile, backend, form, prefix)


def _attention(sizes: list[Sizes]) -> str:
    if not sizes:
        return "image by image"
    rows = [f"{one['rows']} x {one['row_tokens']}" for one in sizes if one.get("rows", 1) > 1]
    return f"rows: {', '.join(rows)}" if rows else "whole pack"


def _activations(a: Architecture, tokens: int, longest: int, sizes: list[Sizes], value_bytes: int) -> int:
    own = [one for one in sizes if one["tokens"] == tokens]
    if not own:
        return activation_bytes(a, tokens, longest)
    return max(engine_activation_bytes(a, one, value_bytes) for one in own)


def engine_activation_bytes(a: Architecture, sizes: Sizes, value_bytes: int) -> int:
    """Memory of a pack's live activations in an engine of TensorRT, estimated; its log tells the true one.

    The MLP holds ``T·(3·D + hidden)`` values; attention in rows holds queries, keys, values and context once more
    where they were laid: ``4·R·L·D``; pooling scores every token for every image: ``heads·M·T``.
    """
    tokens = sizes["tokens"]
    laid = 4 * sizes["rows"] * sizes["row_tokens"] * a.width if sizes.get("rows", 1) > 1 else 0
    block = max(tokens * (3 * a.width + a.mlp_width), tokens * a.width + laid)
    return value_bytes * (block + a.heads * sizes["images"] * tokens)


def activation_bytes(a: Architecture, tokens: int, longest: int) -> int:
    """Memory of a pack's live activations in float32, estimated.

    Where a block peaks, its residual, its normed input and its hidden MLP channels are alive before and after
    the activation: ``T·(2·D + 2·hidden)``; attention holds the scores of its longest image: ``heads·L²``, twice.
    """
    return 4 * max(tokens * (2 * a.width + 2 * a.mlp_width), tokens * 5 * a.width + 2 * a.heads * longest**2)
