"""What a build would do, without building."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from naflex_deploy.build import checkpoints
from naflex_deploy.build.architecture import Architecture
from naflex_deploy.build.lower import choose
from naflex_deploy.build.pipeline import requested_outputs
from naflex_deploy.core.config import Config

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}


@dataclass(frozen=True)
class PlannedBudget:
    """One pack size.

    Attributes:
        tokens: It holds.
        full_images: Images at the token limit that fit into it.
        memory_bytes: Weights and activations, estimated; ``None`` where the model is unknown.
    """

    tokens: int
    full_images: int
    memory_bytes: int | None


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
    return Plan(
        backend=backend,
        precision=precision,
        outputs=requested_outputs(profile, checkpoint) if checkpoint else tuple(profile.outputs),
        image_tokens=image_tokens,
        budgets=tuple(
            PlannedBudget(
                budget,
                min(budget // (image_tokens + prefix), profile.packing.max_images),
                weights + activation_bytes(checkpoint.architecture, budget, image_tokens)
                if checkpoint and weights
                else None,
            )
            for budget in profile.budgets(backend)
        ),
        weights_bytes=weights,
    )


def activation_bytes(a: Architecture, tokens: int, longest: int) -> int:
    """Memory of a pack's live activations in float32, estimated.

    Where a block peaks, its residual, its normed input and its hidden MLP channels are alive before and after
    the activation: ``T·(2·D + 2·hidden)``; attention holds the scores of its longest image: ``heads·L²``, twice.
    """
    return 4 * max(tokens * (2 * a.width + 2 * a.mlp_width), tokens * 5 * a.width + 2 * a.heads * longest**2)
