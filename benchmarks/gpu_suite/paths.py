"""The ways in which a user could run a NaFlex model on a GPU: transformers and torch as usual, and our engines.

Every path is bound to images once, which puts its inputs into the memory that it computes in. It then runs any number
of times and leaves its outputs there, so that only the model is timed, for all paths alike.
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
        launch: Starts the computation; may return before it is done.
        fetch: Waits for the last launch, and returns its ``tokens`` [ΣL, D] and ``pooled`` [M, D].
    """

    launch: Callable[[], object]
    fetch: Callable[[], Results]


@dataclass(frozen=True)
class GpuPath:
    """One way to run a model.

    Attributes:
        precision: Precision of its arithmetic.
        ours: Whether it is an engine of this project.
        bind: Binds the path to images.
        variant: The engine's manifest entry, and the path of its bundle.
        session: The engine's session.
    """

    precision: str
    ours: bool
    bind: Callable[[Images], Bound]
    variant: tuple[Variant, Path] | None = None
    session: Session | None = None


def transformers_path(source: Siglip2VisionModel, device: str, precision: str, *, compiled: bool = False) -> GpuPath:
    """transformers with scaled dot product attention on a padded batch, optionally with every layer compiled."""
    dtype = DTYPES[precision]
    own = copy.deepcopy(source).to(device, dtype)
    own.set_attn_implementation("sdpa")
    if compiled:
        _compile([layer for layer in own.modules() if type(layer).__name__ == "Siglip2EncoderLayer"], device)

    def bind(images: Images) -> Bound:
        batch = padded(images, dtype)
        sizes = batch.pop("spatial_shapes")  # The model reads it on the CPU.
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
    """Flash attention within sequences, which are set before each run of a model."""

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
    """The same with the kernel of ``plugins/``."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int, segment: Tensor) -> Tensor:
        return packed_attention(query, key, value, segment, ends)


def packed_path(
    checkpoint: Checkpoint, device: str, precision: str, attention: str = "varlen", *, compiled: bool = False
) -> GpuPath:
    """The packed model in torch.

    Args:
        checkpoint: The model.
        device: ``cuda`` or ``cpu``.
        precision: Precision of the model.
        attention: ``varlen`` for torch's flash attention over sequences, ``triton`` for our kernel, or ``ragged`` for
            image by image on any device.
        compiled: Whether every block is compiled.
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
    """One of our engines, built here.

    Args:
        backend: Name of the backend.
        precision: Precision of the engine.
        portable: Path of the portable graph.
        profile: Profile to build.
        tuning: Options of ONNX Runtime's CUDA provider that replace ours.
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
    """Compile modules that share their code, so that one compilation serves all of them."""
    if device != "cuda":
        raise NotHereError("torch.compile is only compared on a GPU")
    torch._dynamo.config.recompile_limit = 64
    for module in modules:
        module.compile(dynamic=False)


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    return tensor.float().cpu().numpy()  # type: ignore[no-any-return]


def reference(checkpoint: Checkpoint, device: str, images: Images) -> Results:
    """The outputs of the packed model in float32, computed image by image."""
    bound = packed_path(checkpoint, device, "fp32", "ragged").bind(images)
    bound.launch()
    return bound.fetch()
