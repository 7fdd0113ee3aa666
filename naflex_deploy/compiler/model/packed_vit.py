"""The packed reference model: a NaFlex vision transformer over one row of tokens from many images.

It takes the inputs of an engine (see `naflex_deploy.core.pack.Role`) and defines the outputs that an engine must
return. Readers fill its weights; nothing else in the toolchain knows the names that a checkpoint uses.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from naflex_deploy.compiler.model.architecture import Architecture, Positions
from naflex_deploy.compiler.model.attention import Attention, masked_attention
from naflex_deploy.compiler.model.block import Block
from naflex_deploy.compiler.model.pooling import make_pool
from naflex_deploy.compiler.model.positions.factorized import FactorizedTables
from naflex_deploy.compiler.model.positions.gather import GatheredTable
from naflex_deploy.compiler.model.positions.interpolation import PositionTable
from naflex_deploy.compiler.model.positions.learned import CoordinateMlp, SoftmaxTable
from naflex_deploy.compiler.model.projector import VlmProjector, block_rows
from naflex_deploy.compiler.model.rope import RotaryEmbedding
from naflex_deploy.core.pack import Role

PIXEL_CENTRE = 127.5
"""Value subtracted from raw pixels. The result is exact in float16 and bfloat16, and folded weights stay in range."""


class PackedNaFlexViT(nn.Module):
    """A NaFlex vision transformer over packed tokens.

    The projection takes pixels of 0…255 minus `PIXEL_CENTRE`; `fold_normalisation` folds a checkpoint's
    mean and standard deviation into its weights.

    Args:
        architecture: Shape and options.
        outputs: Outputs to return, among ``pooled``, ``tokens``, ``tokens:-K``, ``tokens:-K:norm``, ``logits``, ``vlm``
            and ``deepstack:K``.
            ``tokens`` are normalised; ``tokens:-K`` is the hidden state after the K-th block from the end, before any
            norm, and ``tokens:-K:norm`` is the same after the final norm. ``vlm`` are the tokens as a language model
            takes them, and ``deepstack:K`` its K-th further input.
        attention: `masked_attention` for export, or `ragged_attention` to run eagerly.
    """

    def __init__(
        self,
        architecture: Architecture,
        outputs: Sequence[str] = ("pooled", "tokens"),
        attention: Attention = masked_attention,
    ) -> None:
        super().__init__()
        a = architecture
        a.check_outputs(outputs)
        self.architecture = a
        self.outputs = tuple(outputs)
        self.attention = attention
        self.embed = nn.Linear(a.patch_values, a.width)
        self.patch_norm = nn.LayerNorm(a.width, a.norm_eps) if a.patch_norm else None
        self.positions = position_table(a.positions, a.width) if a.positions else None
        self.coordinates = CoordinateMlp(a.coordinate_mlp, a.width) if a.coordinate_mlp else None
        self.prefix = PrefixTokens(a.prefix, a.width) if a.prefix else None
        self.pre_norm = nn.LayerNorm(a.width, a.norm_eps) if a.pre_norm else None
        self.rope = RotaryEmbedding(a.rope, a) if a.rope else None
        self.blocks = nn.ModuleList(Block(a) for _ in range(a.depth))
        self.norm = nn.LayerNorm(a.width, a.norm_eps) if a.final_norm == "tokens" else None
        self.pool = make_pool(a)
        self.pooled_norm = nn.LayerNorm(a.width, a.norm_eps) if a.final_norm == "pooled" else None
        self.representation = nn.Linear(a.width, a.representation) if a.representation else None
        self.classifier = nn.Linear(a.pooled_width, a.classes) if a.classes else None
        self.projector = VlmProjector(a.projector, a.width) if a.projector else None
        taps = a.projector.taps if a.projector else ()
        self.deepstack = nn.ModuleList(VlmProjector(a.projector, a.width, tap=True) for _ in taps if a.projector)

    @property
    def roles(self) -> tuple[Role, ...]:
        """Roles of the arguments of `forward`, in order."""
        roles = (Role.PATCHES, Role.COORDS, Role.GRID_HW, Role.SEGMENT_IDS)
        return roles if self.prefix is None else (*roles, Role.TOKEN_KIND)

    def forward(
        self,
        patches: Tensor,
        coords: Tensor,
        grid_hw: Tensor,
        segment_ids: Tensor,
        token_kind: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Run a pack.

        Args:
            patches: Pixels of 0…255, [T, P·P·C] uint8 or float.
            coords: Row and column of each token, [T, 2] int32.
            grid_hw: Grid of each image and of the tail, [M+1, 2] int32.
            segment_ids: Image of each token, [T] int32, ascending; M for the tail.
            token_kind: Kind of each token, [T] int32: 0 for a patch, k for the k-th prefix token. Needed only if
                `roles` has it.

        Returns:
            The outputs asked for, by name: ``pooled`` [M, D], ``tokens`` [T, D], ``logits`` [M, classes], ``vlm`` and
            ``deepstack:K`` [T/s², width] with blocks of s×s tokens.
        """
        token_grid = grid_hw.index_select(0, segment_ids)
        x = self._embed(patches, coords, token_grid, token_kind)
        rotations = self.rope(coords, token_grid, token_kind) if self.rope else [None] * len(self.blocks)
        results = {}
        for index, (block, rotation) in enumerate(zip(self.blocks, rotations, strict=True)):
            x = block(x, segment_ids, self.attention, rotation)
            name = f"tokens:-{len(self.blocks) - index}"
            results[name] = x
            if self.norm is not None and f"{name}:norm" in self.outputs:
                results[f"{name}:norm"] = self.norm(x)
        tokens = x if self.norm is None else self.norm(x)
        results["tokens"] = tokens
        if self.pool is not None:
            tail = grid_hw.shape[0] - 1
            images = torch.arange(tail, device=x.device, dtype=segment_ids.dtype)
            counted = segment_ids if token_kind is None else self._counted(segment_ids, token_kind, tail)
            results["pooled"] = self._finish(self.pool(tokens, images, counted, self.attention))
            if self.classifier is not None:
                results["logits"] = self.classifier(self._classified(results["pooled"]))
        results |= self._projected(results, coords, token_grid)
        return {name: results[name] for name in self.outputs}

    def _projected(self, found: dict[str, Tensor], coords: Tensor, token_grid: Tensor) -> dict[str, Tensor]:
        p = self.architecture.projector
        if p is None or self.projector is None:
            return {}
        blocks = block_rows(coords, token_grid, p.merge) if p.merge > 1 else None
        results = {"vlm": self.projector(found[p.source], blocks)} if "vlm" in self.outputs else {}
        for index, (tap, project) in enumerate(zip(p.taps, self.deepstack, strict=True)):
            if f"deepstack:{index}" in self.outputs:
                results[f"deepstack:{index}"] = project(found[f"tokens:-{len(self.blocks) - tap}"], blocks)
        return results

    def _embed(self, patches: Tensor, coords: Tensor, token_grid: Tensor, token_kind: Tensor | None) -> Tensor:
        x: Tensor = self.embed(patches.to(self.embed.weight.dtype) - PIXEL_CENTRE)
        if self.patch_norm is not None:
            x = self.patch_norm(x)
        if self.positions is not None:
            x = x + self.positions(coords, token_grid)
        if self.coordinates is not None:
            x = x + self.coordinates(coords, token_grid)
        if self.prefix is not None:
            x = self.prefix(x, token_kind)
        return x if self.pre_norm is None else self.pre_norm(x)

    def _counted(self, segment_ids: Tensor, token_kind: Tensor, tail: int) -> Tensor:
        """The [T] segments for pooling, in which tokens that it leaves out belong to the tail."""
        if self.architecture.pool_prefix and self.architecture.pooling != "class":
            return segment_ids
        wanted = 1 if self.architecture.pooling == "class" else 0
        return torch.where(token_kind == wanted, segment_ids, torch.full_like(segment_ids, tail))

    def _finish(self, pooled: Tensor) -> Tensor:
        if self.pooled_norm is not None:
            pooled = self.pooled_norm(pooled)
        return pooled if self.representation is None else self.representation(pooled).tanh()

    def _classified(self, pooled: Tensor) -> Tensor:
        return pooled / pooled.norm(dim=-1, keepdim=True) if self.architecture.cosine_classifier else pooled


class PrefixTokens(nn.Module):
    """Class and register tokens. Row 0 of the table stands for patches and is never used."""

    def __init__(self, prefix: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1 + prefix, width))

    def forward(self, x: Tensor, token_kind: Tensor) -> Tensor:
        """Put the prefix tokens into their rows of [T, D] tokens, which their [T] kinds name."""
        return torch.where(token_kind[:, None] == 0, x, self.table.index_select(0, token_kind))


def position_table(positions: Positions, width: int) -> nn.Module:
    """The module that resizes a position table as its options say."""
    if positions.factorized:
        return FactorizedTables(positions, width)
    if positions.interpolation == "learned_softmax":
        return SoftmaxTable(positions, width)
    return PositionTable(positions, width) if positions.antialias else GatheredTable(positions, width)


@torch.no_grad()
def fold_normalisation(projection: nn.Linear, mean: Sequence[float], std: Sequence[float]) -> None:
    """Convert a projection of normalised pixels, in place, to one of centred pixels.

    A checkpoint computes ``W·((x/255 - mean)/std) + b`` on pixels x; with c = `PIXEL_CENTRE` that equals
    ``W'·(x - c) + b'`` where ``W' = W/(255·std)`` and ``b' = b + Σ W·(c/255 - mean)/std``.

    Args:
        projection: A projection whose input has channels innermost, as patches do.
        mean, std: One value per channel, on a scale of 0…1.
    """
    weight = projection.weight.double().view(len(projection.weight), -1, len(mean))
    channel_mean, channel_std = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
    shift = (weight * ((PIXEL_CENTRE / 255 - channel_mean) / channel_std)).sum((1, 2))
    projection.weight.copy_((weight / (255 * channel_std)).flatten(1))
    projection.bias.copy_(projection.bias.double() + shift)
