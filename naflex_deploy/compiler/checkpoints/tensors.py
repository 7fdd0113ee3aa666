"""Taking tensors out of a checkpoint so that none is missed, left over or of another shape."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from naflex_deploy.core.errors import CheckpointError


class Tensors:
    """A checkpoint's tensors, handed out once each and checked.

    Args:
        tensors: By the checkpoint's own names.
        source: Where they came from, for messages.
    """

    def __init__(self, tensors: Mapping[str, Tensor], source: str) -> None:
        self._tensors = dict(tensors)
        self._source = source

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor not taken yet, () where there is none."""
        tensor = self._tensors.get(name)
        return () if tensor is None else tuple(tensor.shape)

    def prefix_of(self, suffix: str) -> str:
        """What stands before the one name that ends so; nothing where there is none."""
        return next((name.removesuffix(suffix) for name in self._tensors if name.endswith(suffix)), "")

    def below(self, prefix: str) -> Tensors:
        """Those whose names begin so, without it; the others belong to another part of the model."""
        part = {name.removeprefix(prefix): tensor for name, tensor in self._tensors.items() if name.startswith(prefix)}
        return Tensors(part, self._source)

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name as float32, contiguous.

        Raises:
            CheckpointError: It is missing, has another shape, or holds NaN or infinity.
        """
        tensor = self._tensors.pop(name, None)
        if tensor is None:
            raise CheckpointError(
                f"{self._source}: tensor '{name}' is missing, expected shape {list(shape)}",
                hint="the file is incomplete or of another architecture than its config says",
            )
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"{self._source}: tensor '{name}': expected shape {list(shape)}, found {list(tensor.shape)}",
                hint="the config and the weights belong to different models",
            )
        values = tensor.detach().to("cpu", torch.float32).contiguous()
        if not values.isfinite().all():
            raise CheckpointError(f"{self._source}: tensor '{name}' holds NaN or infinity", hint="save it again")
        return values

    def linear(self, ours: str, theirs: str, outputs: int, inputs: int, *, bias: bool = True) -> dict[str, Tensor]:
        """Weight and bias of a linear layer, renamed; a bias of zeros where the checkpoint has none."""
        return {
            f"{ours}.weight": self.take(f"{theirs}.weight", outputs, inputs),
            f"{ours}.bias": self.take(f"{theirs}.bias", outputs) if bias else torch.zeros(outputs),
        }

    def norm(self, ours: str, theirs: str, width: int) -> dict[str, Tensor]:
        """Weight and bias of a LayerNorm, renamed."""
        return {
            f"{ours}.weight": self.take(f"{theirs}.weight", width),
            f"{ours}.bias": self.take(f"{theirs}.bias", width),
        }

    def finish(self, ignore: Collection[str] = ()) -> None:
        """Check that nothing is left but what is known to be of no use.

        Args:
            ignore: Prefixes of names that may remain.

        Raises:
            CheckpointError: A tensor was not read.
        """
        left = sorted(name for name in self._tensors if not name.startswith(tuple(ignore)))
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise CheckpointError(
                f"{self._source}: unexpected tensor '{left[0]}'{more}",
                hint="an option of this model is unknown here: its result would be wrong without that tensor",
            )
