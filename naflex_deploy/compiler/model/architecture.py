"""What a NaFlex vision transformer can be: every choice that changes its graph, by the field's own names.

What a reader can fold into the weights is no option here: LayerScale, missing biases, stacked q/k/v, shared
key/value heads, rotary layouts, convolutional or channels-first patch projections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from naflex_deploy.core.errors import UsageError

Interpolation = Literal["bilinear", "bicubic", "learned_softmax"]
Activation = Literal["gelu", "gelu_tanh", "silu"]
Pooling = Literal["map", "mean", "max", "mean_max", "class", "none"]


@dataclass(frozen=True)
class Positions:
    """A learned table of position embeddings, resized to every image's grid.

    Attributes:
        grid: (rows, columns) of the table.
        interpolation: Filter of the resize; ``learned_softmax`` weighs the four nearest entries by a small MLP.
        antialias: Widen the filter where the table is larger than the grid.
        align_corners: The table's corner entries fall on the grid's corners; otherwise cells are aligned.
        square: Resize to a square of the grid's longer side and take its top left part.
        factorized: Two one-dimensional tables, of rows and of columns, resized linearly and added.
    """

    grid: tuple[int, int]
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    align_corners: bool = False
    square: bool = False
    factorized: bool = False


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of queries and keys by their patch's place.

    Attributes:
        kind: ``axial``: fixed frequencies of row and column. ``dinov3``: the same on coordinates normalised to
            -1…1. ``mixed``: learned frequencies, a pair for each block, head and channel pair.
        temperature: Ratio of the shortest period to the longest.
        reference: (rows, columns) that any grid is rescaled to; ``None`` takes places as they are.
        offset: Added to every place.
        column_first: Angles of the column come before those of the row.
    """

    kind: Literal["axial", "dinov3", "mixed"]
    temperature: float = 10_000.0
    reference: tuple[int, int] | None = None
    offset: float = 0.0
    column_first: bool = False


@dataclass(frozen=True)
class Architecture:
    """Shape and options of a model. Every reader ends here; the packed model is made from this alone.

    Attributes:
        width: D, channels of a token.
        depth: Transformer blocks.
        heads: Attention heads; divides ``width``.
        mlp_width: Hidden channels of each block's MLP.
        patch_size: P, pixels a side.
        positions: The table that tells tokens where they are, if there is one.
        channels: C, channels of a pixel.
        activation: ``gelu`` is exact (erf), ``gelu_tanh`` its tanh approximation.
        norm_eps: ε of every LayerNorm.
        pooling: How an image's tokens become one vector: ``map`` attends with a learned probe; ``mean``, ``max``
            and their average ``mean_max`` reduce; ``class`` takes the class token; ``none`` yields tokens alone.
        classes: Outputs of the classifier on the pooled vector, 0 for none.
        cosine_classifier: The classifier sees the pooled vector at length 1.
        class_token: One prefix token, the first.
        registers: Further prefix tokens.
        pool_prefix: Pooling counts prefix tokens too.
        pool_heads, pool_mlp_width: Of the ``map`` head, where they differ from the blocks'.
        representation: Channels of a tanh layer after pooling, 0 for none.
        patch_norm: LayerNorm on projected patches, before positions.
        pre_norm: LayerNorm on all tokens before the first block.
        final_norm: The last LayerNorm is on the ``tokens``, on the ``pooled`` vector, or there is ``none``.
        gated_mlp: The activation is of a second projection, and multiplies the first (SwiGLU).
        mlp_norm: LayerNorm on the hidden channels of each block's MLP.
        qk_norm: LayerNorm on each head's queries and keys.
        attention_norm: LayerNorm on what attention returns, before its output projection.
        attention_gate: A sigmoid of a projection multiplies what attention returns.
        rope: Rotary embedding, if there is one.
        coordinate_mlp: Hidden channels of an MLP of the patch's place, added to its token; 0 for none.
    """

    width: int
    depth: int
    heads: int
    mlp_width: int
    patch_size: int
    positions: Positions | None
    channels: int = 3
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-6
    pooling: Pooling = "map"
    classes: int = 0
    cosine_classifier: bool = False
    class_token: bool = False
    registers: int = 0
    pool_prefix: bool = False
    pool_heads: int | None = None
    pool_mlp_width: int | None = None
    representation: int = 0
    patch_norm: bool = False
    pre_norm: bool = False
    final_norm: Literal["tokens", "pooled", "none"] = "tokens"
    gated_mlp: bool = False
    mlp_norm: bool = False
    qk_norm: bool = False
    attention_norm: bool = False
    attention_gate: bool = False
    rope: Rope | None = None
    coordinate_mlp: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "heads", "mlp_width", "patch_size", "channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected at least 1")
        for heads in (self.heads, self.pool_heads or self.heads):
            if self.width % heads:
                raise ValueError(f"{heads} heads do not divide a width of {self.width}")
        if self.pooling == "class" and not self.class_token:
            raise ValueError("pooling by the class token needs a class token")
        if self.pooling == "none" and (self.classes or self.representation):
            raise ValueError("a classifier needs pooling")
        if self.rope is not None and self.head_width % 4:
            raise ValueError(f"rotary embedding needs heads of a multiple of 4 channels, found {self.head_width}")

    @property
    def prefix(self) -> int:
        """Prefix tokens (class and register) before each image's patches."""
        return self.class_token + self.registers

    @property
    def table_entries(self) -> int:
        """Entries of the position table, 0 without one."""
        if self.positions is None:
            return 0
        rows, columns = self.positions.grid
        return rows + columns if self.positions.factorized else rows * columns

    @property
    def patch_values(self) -> int:
        """P·P·C, values of one patch."""
        return self.patch_size**2 * self.channels

    @property
    def head_width(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads

    @property
    def pooled_width(self) -> int:
        """Channels of the pooled vector."""
        return self.representation or self.width

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the model can return."""
        forms = ("", ":norm") if self.final_norm == "tokens" else ("",)
        hidden = tuple(f"tokens:-{k}{form}" for k in range(1, self.depth + 1) for form in forms)
        pooled = () if self.pooling == "none" else ("pooled",)
        return ("tokens", *pooled, *(("logits",) if self.classes else ()), *hidden)

    def check_outputs(self, names: Sequence[str]) -> None:
        """Refuse outputs that the model does not have.

        Raises:
            UsageError: Names the first such, and what there is.
        """
        for name in names:
            if name not in self.outputs:
                own = ", ".join(found for found in self.outputs if ":" not in found)
                norm = ", each also with :norm" if self.final_norm == "tokens" else ""
                raise UsageError(
                    f"outputs: expected what the model has, found '{name}'",
                    hint=f"it has {own}, and tokens:-1 to tokens:-{self.depth}{norm}",
                )
