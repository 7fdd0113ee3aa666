"""What a user would run a NaFlex model with on a GPU: transformers and torch in their usual ways, and our engines.

Every path is bound to images once, its inputs in the memory it computes in, and is then run as often as wanted with
outputs left there: so what is timed is the model alone, the same for all.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.gpu_suite.attention import packed_attention, varlen_flash
from benchmarks.peers.contenders import Siglip2VisionModel, padded
from naflex_deploy.compiler.backends.registry import lowering_of
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.backends.onnxruntime_cuda.session import OnnxRuntimeCudaSession
from naflex_deploy.runtime.backends.session import Session

Results = dict[str, npt.NDArray[np.float32]]
Images = Sequence[Patches]
OUTPUTS = ("tokens", "pooled")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class NotHereError(Exception):
    """A path does not exist on this machine; the message says why."""


@dataclass(frozen=True)
class Bound:
    """A path with images in place.

    Attributes:
        launch: Computes; may return before it is done.
        fetch: Waits, and returns ``tokens`` [ΣL, D] and ``pooled`` [M, D] of the last launch.
    """

    launch: Callable[[], object]
    fetch: Callable[[], Results]


@dataclass(frozen=True)
class GpuPath:
    """One way to run a model.

    Attributes:
        precision: Of its arithmetic.
        ours: Whether it is an engine of this project.
        bind: Images → what runs them.
        variant: The engine's manifest entry, and the bundle it lies in.
        session: The engine's.
    """

    precision: str
    ours: bool
    bind: Callable[[Images], Bound]
    variant: tuple[Variant, Path] | None = None
    session: Session | None = None


def transformers_path(source: Siglip2VisionModel, device: str, precision: str, *, compiled: bool = False) -> GpuPath:
    """transformers with scaled dot product attention on a padded batch; every layer compiled, or none."""
    dtype = DTYPES[precision]
    own = copy.deepcopy(source).to(device, dtype)
    own.set_attn_implementation("sdpa")
    if compiled:
        _compile([layer for layer in own.modules() if type(layer).__name__ == "Siglip2EncoderLayer"], device)

    def bind(images: Images) -> Bound:
        batch = padded(images, dtype)
        sizes = batch.pop("spatial_shapes")  # it is read on the CPU
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        mask = batch["pixel_attention_mask"].bool()
        last: list[Any] = []

        def launch() -> None:
            with torch.inference_mode():
                last[:] = [own(**batch, spatial_shapes=sizes)]

        def fetch() -> Results:
            (found,) = last
            return {"tokens": _array(found.last_hidden_state[mask]), "pooled": _array(found.pooler_output)}

        return Bound(launch, fetch)

    return GpuPath(precision, False, bind)


class _Sequences:
    """Attention between sequences that a pack names; set before each run of a model."""

    def __init__(self) -> None:
        self.ends = torch.zeros(1)
        self.one_each = torch.zeros(1)
        self.longest = 0

    def use(self, ends: Tensor, longest: int) -> None:
        self.ends, self.longest = ends, longest
        self.one_each = torch.arange(len(ends), dtype=torch.int32, device=ends.device)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, query_segment: Tensor, segment: Tensor) -> Tensor:
        if len(query) == len(key):
            return self.attend(query, key, value, self.ends, self.longest, segment)
        each = query.expand(len(query_segment), -1, -1).contiguous()
        return varlen_flash(each, key, value, self.one_each, self.ends, 1, self.longest)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, segment: Tensor) -> Tensor:
        return varlen_flash(query, key, value, ends, ends, longest, longest)


class _TritonKernels(_Sequences):
    """The same by the kernel of ``plugins/``."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, segment: Tensor) -> Tensor:
        return packed_attention(query, key, value, segment, ends)


def packed_path(
    checkpoint: Checkpoint, device: str, precision: str, attention: str = "varlen", *, compiled: bool = False
) -> GpuPath:
    """The packed model in torch.

    Args:
        attention: ``varlen``: torch's flash attention over sequences. ``triton``: our kernel. ``ragged``: image by
            image, on any device.
    """
    if attention != "ragged" and device != "cuda":
        raise NotHereError("flash attention over sequences needs a GPU")
    sequences = {"varlen": _Sequences, "triton": _TritonKernels}.get(attention, _Sequences)()
    model = checkpoint.model(OUTPUTS, ragged_attention if attention == "ragged" else sequences)
    own = model.to(device, DTYPES[precision]).eval()
    if compiled:
        _compile(list(own.blocks), device)

    def bind(images: Images) -> Bound:
        pack = Pack.of(images)
        inputs = [torch.from_numpy(pack.view(role)).to(device) for role in own.roles]
        ends, longest = torch.from_numpy(pack.cu_seqlens).to(device), int(np.diff(pack.offsets).max())
        last: dict[str, Tensor] = {}

        def launch() -> None:
            sequences.use(ends, longest)
            with torch.inference_mode():
                last.update(own(*inputs))

        return Bound(launch, lambda: {name: _array(values) for name, values in last.items()})

    return GpuPath(precision, False, bind)


def engine_path(
    backend: str, precision: str, portable: Path, profile: Profile, tuning: Mapping[str, str] | None = None
) -> GpuPath:
    """An engine of ours, built here.

    Args:
        tuning: Options of ONNX Runtime's CUDA provider other than ours.
    """
    lowering = lowering_of(backend)
    if reason := lowering.backend.cannot_build() or lowering.backend.cannot_run():
        raise NotHereError(reason)
    folder = portable.parent
    variants = folder / ("tuned" if tuning else "variants")
    variant = lowering.lower(Task(portable, variants, profile, precision))
    session: Session
    if tuning:
        session = OnnxRuntimeCudaSession(folder / variant.model, variant, folder, tuning)
    else:
        session = open_session(folder, variant)
    return GpuPath(precision, True, lambda images: _bind(session, Pack.of(images)), (variant, folder), session)


def _bind(session: Session, pack: Pack) -> Bound:
    if hasattr(session, "bind"):
        bound = session.bind(pack, OUTPUTS)
        return Bound(bound.launch, bound.fetch)
    found: dict[str, Any] = {}
    return Bound(lambda: found.update(session.run(pack, OUTPUTS)), lambda: found)


def _compile(modules: Sequence[torch.nn.Module], device: str) -> None:
    """One compilation for all: they share their code."""
    if device != "cuda":
        raise NotHereError("torch.compile is compared on a GPU alone")
    torch._dynamo.config.recompile_limit = 64
    for module in modules:
        module.compile(dynamic=False)


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    return tensor.float().cpu().numpy()  # type: ignore[no-any-return]


def reference(checkpoint: Checkpoint, device: str, images: Images) -> Results:
    """What the packed model returns in float32, image by image."""
    bound = packed_path(checkpoint, device, "fp32", "ragged").bind(images)
    bound.launch()
    return bound.fetch()
