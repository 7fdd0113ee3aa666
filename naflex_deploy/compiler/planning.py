"""Works out what a build would do, without building."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.backends.registry import choose_all
from naflex_deploy.compiler.model.architecture import Architecture
from naflex_deploy.compiler.pipeline import requested_outputs
from naflex_deploy.core.config import Config
from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.manifest import Sizes
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.tiles import plan_layout

DEFAULT = Preprocessing(patch_size=16)
"""The preprocessing of most models, assumed when no model is given."""

SCANNED = 300
"""Resolution at which pages are usually scanned, in pixels per inch; no profile asks for more."""

PAPERS = {"A4": (8.27, 11.69), "Letter": (8.5, 11.0), "receipt of 80 x 200 mm": (3.15, 7.87)}
"""(width, height) of usual pages, in inches."""

READABLE = 100
"""Pixels per inch below which small print is lost: 8-point type is then 11 pixels high, and its x about 5."""

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}


@dataclass(frozen=True)
class PlannedBudget:
    """One pack size.

    Attributes:
        tokens: Number of tokens that the pack holds.
        full_images: Number of images at the token limit that fit into the pack.
        memory_bytes: Estimated memory of weights and activations; ``None`` if the model is unknown.
        attention: How tokens attend to each other, for a person.
    """

    tokens: int
    full_images: int
    memory_bytes: int | None
    attention: str = "image by image"


@dataclass(frozen=True)
class PlannedPage:
    """What a page scanned at 300 dpi is turned into.

    Attributes:
        paper: Name of the paper size.
        images: Number of images that the page becomes: more than one if it is tiled, 0 if it is refused.
        tokens: Number of tokens of all these images.
        dpi: Resolution that the model sees, in pixels per inch.
    """

    paper: str
    images: int
    tokens: int
    dpi: int

    @property
    def readable(self) -> bool:
        return self.dpi >= READABLE


@dataclass(frozen=True)
class Plan:
    """What `build` would do.

    Attributes:
        also: Further engines that it makes, backend and precision.
    """

    backend: str
    precision: str
    also: tuple[str, ...]
    outputs: tuple[str, ...]
    image_tokens: int
    budgets: tuple[PlannedBudget, ...]
    weights_bytes: int | None
    pages: tuple[PlannedPage, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan(config: Config, model: str | None) -> Plan:
    """Resolve backend, precision and budgets, and estimate memory if a model is given.

    Raises:
        CheckpointError: The model cannot be read.
        IncompatibleError: No backend can be built here.
    """
    profile = config.profile
    (lowering, precision), *others = choose_all(profile)
    backend = lowering.backend.name
    checkpoint = checkpoints.read(model) if model else None
    prefix = checkpoint.architecture.prefix if checkpoint else 0
    weights = None
    if checkpoint:
        weights = sum(tensor.numel() for tensor in checkpoint.weights.values()) * BYTES[precision]
    image_tokens = profile.image_tokens(backend, prefix)
    sizes = lowering.sizes(profile, prefix)
    return Plan(
        backend=backend,
        precision=precision,
        also=tuple(f"{other.backend.name} {kind}" for other, kind in others),
        outputs=requested_outputs(profile, checkpoint) if checkpoint else tuple(profile.outputs),
        image_tokens=image_tokens,
        budgets=tuple(
            PlannedBudget(
                budget,
                min(budget // (image_tokens + prefix), profile.max_images(backend)),
                weights + _activations(checkpoint.architecture, budget, image_tokens, sizes, BYTES[precision])
                if checkpoint and weights
                else None,
                lowering.attention([one for one in sizes if one["tokens"] == budget]),
            )
            for budget in profile.budgets(backend)
        ),
        weights_bytes=weights,
        pages=plan_pages(profile.image, checkpoint.preprocessing if checkpoint else DEFAULT, image_tokens),
    )


def plan_pages(image: ImageSection, model: Preprocessing, tokens: int) -> tuple[PlannedPage, ...]:
    """Plan pages of the usual sizes."""
    return tuple(_plan_page(paper, inches, image, model, tokens) for paper, inches in PAPERS.items())


def _plan_page(
    paper: str, inches: tuple[float, float], image: ImageSection, model: Preprocessing, tokens: int
) -> PlannedPage:
    width, height = inches
    size = (round(height * SCANNED), round(width * SCANNED))
    try:
        layout = plan_layout(size, image=image, model=model, tokens=tokens, dpi=SCANNED)
    except ImageError:
        return PlannedPage(paper, 0, 0, 0)
    finest = layout.page or layout.whole
    return PlannedPage(
        paper,
        1 + len(layout.tiles),
        layout.whole.tokens + sum(tile.grid_hw[0] * tile.grid_hw[1] for tile in layout.tiles),
        round(min(finest.size[0] / height, finest.size[1] / width)),
    )


def _activations(a: Architecture, tokens: int, longest: int, sizes: list[Sizes], value_bytes: int) -> int:
    own = [one for one in sizes if one["tokens"] == tokens]
    if not own:
        return activation_bytes(a, tokens, longest)
    return max(engine_activation_bytes(a, one, value_bytes) for one in own)


def engine_activation_bytes(a: Architecture, sizes: Sizes, value_bytes: int) -> int:
    """Estimated memory of a pack's live activations on a GPU; a TensorRT build log has the exact figure.

    The MLP holds ``T·(3·D + hidden)`` values. Attention in rows holds a second copy of queries, keys, values and
    context, laid out in rows: ``4·R·L·D``. Pooling scores every token for every image: ``heads·M·T``.
    """
    tokens = sizes["tokens"]
    laid = 4 * sizes["rows"] * sizes["row_tokens"] * a.width if sizes.get("rows", 1) > 1 else 0
    block = max(tokens * (3 * a.width + a.mlp_width), tokens * a.width + laid)
    return value_bytes * (block + a.heads * sizes["images"] * tokens)


def activation_bytes(a: Architecture, tokens: int, longest: int) -> int:
    """Estimated memory of a pack's live activations in float32.

    At its peak, a block's MLP holds the residual, the normalised input, and the hidden channels before and after the
    activation: ``T·(2·D + 2·hidden)``. Attention holds the scores of the longest image twice: ``2·heads·L²``.
    """
    return 4 * max(tokens * (2 * a.width + 2 * a.mlp_width), tokens * 5 * a.width + 2 * a.heads * longest**2)
