"""A checkpoint's tensors, taken out so that none is missing, left over, quantised or of another shape."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from naflex_deploy.core.errors import CheckpointError

ANYWHERE = ("_orig_mod", "module")
"""Parts of a name that ``torch.compile`` and (distributed) data parallel put before whatever they wrap."""
LEADING = ("model", "ema_model", "ema")
"""Parts that training loops put before the names of the model that they hold."""
WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
"""Class of a wrapper → where it keeps the model."""
DEQUANTISE = "load it where it was made, dequantise it (model.dequantize() in transformers), and save it in bfloat16"


def bare_name(name: str) -> str:
    """The name of a tensor in the model itself, without what wrappers put into it when it was saved."""
    parts = [part for part in name.split(".") if part not in ANYWHERE]
    while len(parts) > 1 and parts[0] in LEADING:
        del parts[0]
    return ".".join(parts)


def unwrapped_module(module: nn.Module) -> nn.Module:
    """The model itself, which ``torch.compile`` or data parallel may have wrapped."""
    while type(module).__name__ in WRAPPERS:
        module = getattr(module, WRAPPERS[type(module).__name__])
    return module


def refuse_quantised(config: Mapping[str, Any], source: str) -> None:
    """Refuse a model whose config says that its weights are quantised: their scales belong to a format of its own.

    Raises:
        CheckpointError: They are; names the method.
    """
    stated = config.get("quantization_config")
    if stated:
        method = stated.get("quant_method", "unknown") if isinstance(stated, dict) else repr(stated)
        raise CheckpointError(
            f"{source}: config.json: quantization_config with quant_method = '{method}' is not supported",
            hint=DEQUANTISE,
        )


def with_three_channels(projection: Tensor, channels: int) -> Tensor:
    """A patch projection that takes pixels of three channels, channels innermost.

    Grey images come as three equal channels: a third of the weight for each of them gives the same sum.
    """
    return projection if channels == 3 else (projection / 3).repeat_interleave(3, dim=1)


class Tensors:
    """A checkpoint's tensors, handed out once each and checked.

    Args:
        tensors: By the checkpoint's own names.
        source: Where they came from, for messages.
        stored: The name of a tensor in the file, for messages, where it differs.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], source: str, stored: Callable[[str], str] = lambda name: name
    ) -> None:
        self._tensors = dict(tensors)
        self._source = source
        self._stored = stored

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor not taken yet, () where there is none."""
        tensor = self._tensors.get(name)
        return () if tensor is None else tuple(tensor.shape)

    def prefix_of(self, suffix: str) -> str:
        """What stands before the one name that ends so; nothing where there is none.

        Raises:
            CheckpointError: Several names end so, as where a file holds a student and its teacher.
        """
        found = sorted(name for name in self._tensors if name == suffix or name.endswith(f".{suffix}"))
        if len(found) > 1:
            raise CheckpointError(
                f"{self._source}: '{found[0]}' and '{found[1]}' are of two image towers",
                hint="save the one that you mean alone",
            )
        return found[0].removesuffix(suffix) if found else ""

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor of that name as float32, contiguous.

        Raises:
            CheckpointError: It is missing, has another shape, is quantised, or holds NaN or infinity.
        """
        tensor = self._tensors.pop(name, None)
        name = self._stored(name)
        if tensor is None:
            raise CheckpointError(
                f"{self._source}: tensor '{name}' is missing, expected shape {list(shape)}",
                hint="the file is incomplete or of another architecture than its config says",
            )
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
            raise CheckpointError(
                f"{self._source}: tensor '{name}' is quantised: expected floats of 16 bits or more, found "
                f"{str(tensor.dtype).removeprefix('torch.')}",
                hint=DEQUANTISE,
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
        """Check that every tensor was taken, but for those that are known to be of no use.

        Args:
            ignore: Prefixes of names that may remain. Position numbers, which earlier versions of transformers saved
                as a tensor, may remain as well.

        Raises:
            CheckpointError: A tensor was not read.
        """
        useless = tuple(ignore)
        left = sorted(
            self._stored(name)
            for name in self._tensors
            if not name.startswith(useless) and not name.endswith(".position_ids")
        )
        if left:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise CheckpointError(
                f"{self._source}: unexpected tensor '{left[0]}'{more}",
                hint="an option of this model is unknown here: its result would be wrong without that tensor",
            )
