"""Describes a NaFlex vision transformer: every choice that changes its graph, by the field's own names.

Variations that a reader can fold into the weights are not options here: LayerScale, missing biases, stacked q/k/v,
shared key/value heads, rotary layouts, convolutional or channels-first patch projections.
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
        antialias: Whether the filter widens if the table is larger than the grid.
        align_corners: Whether the table's corner entries fall on the grid's corners; otherwise cells are aligned.
        square: Whether the table is resized to a square of the grid's longer side, then cropped to its top left part.
        factorized: Whether there are two one-dimensional tables, for rows and columns, resized linearly and added.
    """

    grid: tuple[int, int]
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    align_corners: bool = False
    square: bool = False
    factorized: bool = False


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of queries and keys by the position of their patch.

    Attributes:
        kind: ``axial``: fixed frequencies of row and column. ``dinov3``: the same on coordinates normalised to
            -1…1. ``mixed``: learned frequencies, a pair for each block, head and channel pair. ``mrope``: pairs turn
            by row, by column or not at all, in turn, their frequencies falling over all of them.
        temperature: Base of the frequencies, which spans the range from the shortest period to the longest.
        reference: (rows, columns) that positions on any grid are rescaled to; ``None`` leaves them as they are.
        offset: Offset added to every position.
        column_first: Whether the angles of the column come before those of the row.
        sections: For ``mrope``, pairs 1, 4, 7, … below three times the first number turn by row, and pairs 2, 5, 8, …
            below three times the second by column.
    """

    kind: Literal["axial", "dinov3", "mixed", "mrope"]
    temperature: float = 10_000.0
    reference: tuple[int, int] | None = None
    offset: float = 0.0
    column_first: bool = False
    sections: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Projector:
    """The last step to a language model: tokens of a block are joined, then go through two layers.

    Attributes:
        width: Channels of a token of the language model.
        hidden: Channels between the two layers.
        merge: Side of the blocks of tokens that are joined, row by row; 1 joins none.
        norm: Whether a LayerNorm is on each ``token`` before blocks are joined, on each joined ``block``, or there is
            ``none``.
        norm_eps: ε of that LayerNorm.
        activation: Between the layers; ``gelu`` is exact (erf).
        bias: Whether the layers have biases.
        source: The output that it takes its tokens from.
        taps: Blocks, from 0, whose hidden states the language model takes as well, each through a projector of its own
            that has its norm on joined blocks (DeepStack).
    """

    width: int
    hidden: int
    merge: int = 1
    norm: Literal["token", "block", "none"] = "token"
    norm_eps: float = 1e-6
    activation: Literal["gelu", "silu"] = "gelu"
    bias: bool = True
    source: str = "tokens"
    taps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Architecture:
    """Shape and options of a model. Every reader produces one, and the packed model is built from nothing else.

    Attributes:
        width: D, channels of a token.
        depth: Number of transformer blocks.
        heads: Number of attention heads, which divides ``width``.
        mlp_width: Hidden channels of each block's MLP.
        patch_size: P, side of a patch in pixels.
        positions: The table of position embeddings, if there is one.
        channels: C, channels of a pixel.
        activation: ``gelu`` is exact (erf), ``gelu_tanh`` its tanh approximation.
        norm_eps: ε of every LayerNorm.
        pooling: How an image's tokens become one vector: ``map`` attends with a learned probe; ``mean``, ``max``
            and their average ``mean_max`` reduce; ``class`` takes the class token; ``none`` returns only tokens.
        classes: Number of classes of the classifier on the pooled vector, 0 for none.
        cosine_classifier: Whether the pooled vector is normalised to length 1 before the classifier.
        class_token: Whether the first prefix token is a class token.
        registers: Number of register tokens, which are further prefix tokens.
        pool_prefix: Whether pooling includes the prefix tokens.
        pool_heads: Number of heads of the ``map`` head; ``None`` for that of the blocks.
        pool_mlp_width: Hidden channels of the MLP of the ``map`` head; ``None`` for those of the blocks.
        representation: Channels of a tanh layer after pooling, 0 for none.
        patch_norm: Whether a LayerNorm follows the patch projection, before positions are added.
        pre_norm: Whether a LayerNorm precedes the first block.
        final_norm: Whether the last LayerNorm is on the ``tokens``, on the ``pooled`` vector, or there is ``none``.
        gated_mlp: Whether the MLP is gated: the activation of a second projection multiplies the first (SwiGLU).
        mlp_norm: Whether a LayerNorm is on the hidden channels of each block's MLP.
        qk_norm: Whether a LayerNorm is on each head's queries and keys.
        attention_norm: Whether a LayerNorm is on the attention output, before the output projection.
        attention_gate: Whether the sigmoid of a projection multiplies the attention output.
        rope: Rotary embedding, if there is one.
        coordinate_mlp: Hidden channels of an MLP of the patch's position, whose output is added to the token; 0 for
            none.
        projector: The step to the language model that the tower belongs to.
        frames: Frames of a clip that a patch spans, one after another.
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
    projector: Projector | None = None
    frames: int = 1

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
        if self.projector is not None:
            self._check_projector(self.projector)

    def _check_projector(self, projector: Projector) -> None:
        if min(projector.width, projector.hidden, projector.merge) < 1:
            raise ValueError(
                f"a projector of {projector.width} channels, {projector.hidden} hidden and blocks of {projector.merge}"
            )
        if self.prefix:
            raise ValueError("a projector takes patches alone, found prefix tokens")
        for tap in projector.taps:
            if not 0 <= tap < self.depth:
                raise ValueError(f"a tap after block {tap}, of {self.depth} blocks")
        if projector.source not in self.outputs:
            raise ValueError(f"a projector of '{projector.source}', of {self.depth} blocks")

    @property
    def prefix(self) -> int:
        """Prefix tokens (class and register) before each image's patches."""
        return self.class_token + self.registers

    @property
    def table_entries(self) -> int:
        """Number of entries in the position table; 0 without one."""
        if self.positions is None:
            return 0
        rows, columns = self.positions.grid
        return rows + columns if self.positions.factorized else rows * columns

    @property
    def patch_values(self) -> int:
        """Number of values in one patch, P·P·C of each frame that it spans."""
        return self.patch_size**2 * self.channels * self.frames

    @property
    def head_width(self) -> int:
        """Channels of one attention head."""
        return self.width // self.heads

    @property
    def pooled_width(self) -> int:
        """Channels of the pooled vector."""
        return self.representation or self.width

    @property
    def merge(self) -> int:
        """Side of the blocks of tokens that the language model takes as one; 1 without such a model."""
        return self.projector.merge if self.projector else 1

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that the model can return."""
        forms = ("", ":norm") if self.final_norm == "tokens" else ("",)
        hidden = tuple(f"tokens:-{k}{form}" for k in range(1, self.depth + 1) for form in forms)
        pooled = () if self.pooling == "none" else ("pooled",)
        taps = len(self.projector.taps) if self.projector else 0
        projected = ("vlm", *(f"deepstack:{k}" for k in range(taps))) if self.projector else ()
        return ("tokens", *pooled, *(("logits",) if self.classes else ()), *projected, *hidden)

    def check_outputs(self, names: Sequence[str]) -> None:
        """Refuse outputs that the model does not have.

        Raises:
            UsageError: The model lacks an output; names the first such, and those that it has.
        """
        for name in names:
            if name not in self.outputs:
                own = ", ".join(found for found in self.outputs if not found.startswith("tokens:"))
                norm = ", each also with :norm" if self.final_norm == "tokens" else ""
                raise UsageError(
                    f"outputs: the model has no output '{name}'",
                    hint=f"it has {own}, and tokens:-1 to tokens:-{self.depth}{norm}",
                )
