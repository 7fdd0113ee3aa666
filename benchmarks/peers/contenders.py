"""The ways in which a user could run a NaFlex model on a CPU. All take the same images, and return pooled [M, D]."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import tests.support.imports  # noqa: F401  makes transformers importable beside any build of torch

from transformers import Siglip2VisionConfig, Siglip2VisionModel  # isort: skip

from benchmarks.peers import towers
from benchmarks.peers.engines import Contender, Graphs, Images, Pooled
from naflex_deploy.compiler import checkpoints
from naflex_deploy.compiler.backends.registry import lowering_of
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.export import export
from naflex_deploy.core.config import resolve
from tests.support.calibrations import observed

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


def shape(size: str) -> dict[str, int]:
    """What the arithmetic of a model follows from: see `work`."""
    if towers.is_tower(size):
        return towers.shape(size)
    config = Siglip2VisionConfig(**SIZES[size])
    return {
        "width": config.hidden_size,
        "mlp_width": config.intermediate_size,
        "depth": config.num_hidden_layers,
        "patch_values": config.patch_size**2 * config.num_channels,
    }


def export_graphs(size: str, folder: Path) -> Graphs:
    """Export a model twice, unless the folder holds it: packed, and with the attention of one image."""
    graphs = Graphs(folder)
    if not graphs.complete.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if towers.is_tower(size):
            towers.export_graph(size, graphs)
        else:
            checkpoint = checkpoints.read(model(size))
            export(checkpoint.model(("pooled",)), graphs.portable)
            export(checkpoint.model(("pooled",), plain_attention), graphs.single)
        graphs.complete.touch()
    return graphs


def lower(graphs: Graphs, backend: str = "onnxruntime", precision: str = "fp32") -> None:
    """Make a variant of this project; int8 is calibrated on `Graphs.samples`."""
    path = graphs.entry(backend, precision)
    if not path.exists():
        calibration = observed(graphs.portable, graphs.samples) if precision == "int8" else None
        profile = resolve("photo", environment={}).profile
        task = Task(graphs.portable, graphs.folder / "variants", profile, precision, calibration=calibration)
        path.write_text(lowering_of(backend).lower(task).model_dump_json())
