"""The ways in which a user could run a NaFlex model on a CPU. All take the same images, and return pooled [M, D]."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

import tests.conftest  # noqa: F401  makes transformers importable beside any build of torch

from transformers import Siglip2VisionConfig, Siglip2VisionModel  # isort: skip

from benchmarks.peers.mixes import mixes
from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.backends.onnxruntime import lowering
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.export import export
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.config import resolve
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.runtime.backends.onnxruntime.session import OnnxRuntimeSession
from naflex_deploy.runtime.packing.packer import balanced, pack_lengths
from tests.support.calibrations import observed

Pooled = npt.NDArray[np.float32]
Images = Sequence[Patches]
BUDGET = 1024


@dataclass(frozen=True)
class Contender:
    """One way to run the model.

    Attributes:
        precision: Precision of its arithmetic: fp32, bf16 or int8.
        ours: Whether it is this project's engine.
        bind: Takes images and returns a call that runs them; work that does not depend on pixels is done beforehand.
    """

    precision: str
    ours: bool
    bind: Callable[[Images], Callable[[], Pooled]]


SIZES: dict[str, dict[str, int]] = {
    "siglip2-base": {},
    "siglip2-so400m": {
        "hidden_size": 1152,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "intermediate_size": 4304,
    },
    "small": {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 192},
}


def model(size: str = "siglip2-base") -> Siglip2VisionModel:
    """A model with seeded random weights, under which attention is far from uniform.

    Args:
        size: Name in `SIZES`.
    """
    torch.manual_seed(0)
    found = Siglip2VisionModel(Siglip2VisionConfig(**SIZES[size], attn_implementation="eager"))
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if parameter.ndim > 1:
                gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.0
                parameter.copy_(torch.randn_like(parameter) * (gain / parameter.shape[-1]) ** 0.5)
    return found.eval()


# transformers and timm


def padded(images: Images, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A batch as transformers takes it, padded to the longest image."""
    longest = max(map(len, images))
    pixels = torch.zeros(len(images), longest, images[0].pixels.shape[1])
    mask = torch.zeros(len(images), longest, dtype=torch.int32)
    for row, image in enumerate(images):
        pixels[row, : len(image)] = torch.from_numpy(image.pixels).float() / 127.5 - 1
        mask[row, : len(image)] = 1
    shapes = torch.tensor([image.grid_hw for image in images])
    return {"pixel_values": pixels.to(dtype), "pixel_attention_mask": mask, "spatial_shapes": shapes}


def hf(
    source: Siglip2VisionModel,
    attention: str = "eager",
    dtype: torch.dtype = torch.float32,
    *,
    one_by_one: bool = False,
    compiled: bool = False,
) -> Contender:
    """transformers, with a padded batch or one image at a time."""
    own = copy.deepcopy(source).to(dtype)
    own.set_attn_implementation(attention)
    forward = torch.compile(own) if compiled else own

    def bind(images: Images) -> Callable[[], Pooled]:
        batches = [padded(part, dtype) for part in ([[image] for image in images] if one_by_one else [images])]

        def call() -> Pooled:
            with torch.inference_mode():
                found = [forward(**batch).pooler_output.float().numpy() for batch in batches]
            return np.concatenate(found)

        return call

    return Contender("fp32" if dtype == torch.float32 else "bf16", False, bind)


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *segments: torch.Tensor
) -> torch.Tensor:
    """Attention of a single image, whose tokens all belong to one segment."""
    q, k, v = (tensor.transpose(0, 1)[None] for tensor in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)


class Graphs:
    """The exported graphs, which all contenders share."""

    def __init__(self, source: Siglip2VisionModel) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="naflex-peers-")  # It is deleted with this object.
        self.folder = Path(self._temporary.name)
        checkpoint = checkpoints.read(source)
        self.portable = self.folder / "portable.onnx"
        export(checkpoint.model(("pooled",)), self.portable)
        self.variant = self._lowered("fp32")
        self.single = self.folder / "single.onnx"
        export(checkpoint.model(("pooled",), plain_attention), self.single)

    @cached_property
    def int8(self) -> Variant:
        """The int8 variant, calibrated on `samples`."""
        return self._lowered("int8", observed(self.portable, self.samples))

    @property
    def samples(self) -> tuple[Patches, ...]:
        """Calibration images, of the same sizes as the images that are timed, but with other pixels."""
        (mixed,) = (mix for mix in mixes() if mix.name == "mixed")
        return tuple(mixed.images(int(self.variant.inputs[0].shape[1]), seed=1))

    def _lowered(self, precision: str, calibration: QuantSpec | None = None) -> Variant:
        profile = resolve("photo", environment={}).profile
        task = Task(self.portable, self.folder / "variants", profile, precision, calibration=calibration)
        return lowering.lower(task)


def ours(graphs: Graphs, threads: int, layout: str, precision: str = "fp32") -> Contender:
    """This project's engine, including packing.

    Args:
        graphs: The exported graphs.
        threads: Number of threads.
        layout: ``packed`` runs each pack on all cores, ``side by side`` runs packs of equal size on one core each, and
            ``one by one`` runs each image on all cores.
        precision: ``fp32`` or ``int8``.
    """
    variant = graphs.int8 if precision == "int8" else graphs.variant
    session = OnnxRuntimeSession(graphs.folder / variant.model, variant, threads, graphs.folder)
    worker = session.worker() if layout == "side by side" else session
    pool = ThreadPoolExecutor(threads)

    def bind(images: Images) -> Callable[[], Pooled]:
        lengths = [len(image) for image in images]

        def divide() -> list[list[int]]:
            if layout == "one by one":
                return [[index] for index in range(len(images))]
            if layout == "side by side":
                for packs in range(threads, len(images) + 1, threads):
                    even = balanced(lengths, packs, BUDGET, 64)
                    if even is not None:
                        return even
            return [pack.tolist() for pack in pack_lengths(lengths, BUDGET, 64)]

        def run(members: list[int]) -> Pooled:
            return np.asarray(worker.run(Pack.of([images[index] for index in members]), ("pooled",))["pooled"])

        def call() -> Pooled:
            packs = divide()
            found = pool.map(run, packs) if layout == "side by side" else map(run, packs)
            rows = np.empty((len(images), graphs.variant.outputs[0].shape[-1]), np.float32)
            for members, values in zip(packs, found, strict=True):
                rows[members] = values
            return rows

        return call

    return Contender(precision, True, bind)


def naive(source: Siglip2VisionModel, threads: int) -> Contender:
    """The plain export of the transformers model in ONNX Runtime, with the fixed sizes of the example."""
    import onnxruntime as ort

    def bind(images: Images) -> Callable[[], Pooled]:
        batch = padded(images, torch.float32)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        with tempfile.TemporaryDirectory(prefix="naflex-naive-") as folder:
            path = f"{folder}/naive.onnx"
            torch.onnx.export(source, (), path, kwargs=batch, dynamo=True, opset_version=20, verbose=False)
            session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        feeds = {name: batch[name].numpy() for name in names}
        return lambda: np.asarray(session.run(None, feeds)[-1])

    return Contender("fp32", False, bind)


def openvino(graphs: Graphs, threads: int, precision: str, *, streams: int = 1) -> Contender:
    """OpenVINO on the unmasked graph, one image at a time, with one stream on all cores or one stream per core."""
    import openvino as ov

    core = ov.Core()
    graph = core.read_model(str(graphs.single))
    if precision == "int8":
        graph = _quantized(graph, graphs)
    compiled = core.compile_model(
        graph,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        },
    )
    names = [port.get_any_name() for port in compiled.inputs]

    def bind(images: Images) -> Callable[[], Pooled]:
        feeds = [_feeds(image, names) for image in images]
        rows: list[Pooled] = [np.zeros(0, np.float32)] * len(feeds)
        queue = ov.AsyncInferQueue(compiled, streams)

        def keep(request: ov.InferRequest, index: int) -> None:
            rows[index] = request.get_output_tensor(0).data[0].copy()

        queue.set_callback(keep)

        def call() -> Pooled:
            for index, feed in enumerate(feeds):
                queue.start_async(feed, index)
            queue.wait_all()
            return np.stack(rows)

        return call

    return Contender(precision, False, bind)


def _feeds(image: Patches, names: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
    pack = Pack.of([image])
    return {name: pack.view(name) for name in names}  # type: ignore[arg-type]


def _quantized(graph: object, graphs: Graphs) -> object:
    import nncf

    names = [port.get_any_name() for port in graph.inputs]  # type: ignore[attr-defined]
    samples = nncf.Dataset([_feeds(image, names) for image in graphs.samples])
    return nncf.quantize(graph, samples, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(graphs.samples))
