"""What a NaFlex vision transformer can be: every choice that changes its graph, by the field's own names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Interpolation = Literal["bilinear", "bicubic"]
Activation = Literal["gelu", "gelu_tanh"]
Pooling = Literal["map", "mean"]


@dataclass(frozen=True)
class Positions:
    """A learned table of position embeddings, resized to every image's grid.

    Attributes:
        grid: (rows, columns) of the table.
        interpolation: Filter of the resize.
        antialias: Widen the filter where the table is larger than the grid.
    """

    grid: tuple[int, int]
    interpolation: Interpolation = "bilinear"
    antialias: bool = True


@dataclass(frozen=True)
class Architecture:
    """Shape and options of a model. Every reader ends here; the packed model is made from this alone.

    Attributes:
        width: D, channels of a token.
        depth: Transformer blocks.
        heads: Attention heads; divides ``width``.
        mlp_width: Hidden channels of each block's MLP.
        patch_size: P, pixels a side.
        channels: C, channels of a pixel.
        positions: How tokens learn where they are.
        activation: ``gelu`` is exact (erf), ``gelu_tanh`` its tanh approximation.
        norm_eps: ε of every LayerNorm.
        pooling: How an image's tokens become one vector: ``map`` attends with a learned probe,
            ``mean`` averages the patches.
        classes: Outputs of the classifier on the pooled vector, 0 for none.
    """

    width: int
    depth: int
    heads: int
    mlp_width: int
    patch_size: int
    positions: Positions
    channels: int = 3
    activation: Activation = "gelu_tanh"
    norm_eps: float = 1e-6
    pooling: Pooling = "map"
    classes: int = 0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads do not divide a width of {self.width}")

    @property
    def prefix(self) -> int:
        """Prefix tokens (class and register) before each image's patches."""
        return 0

    @property
    def patch_values(self) -> int:
        """P·P·C, values of one patch."""
        return self.patch_size**2 * self.channels
