"""Engines that run exported graphs: this project's and OpenVINO alone. Their processes need no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from benchmarks.peers.mixes import mixes
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack, Patches, on_grid
from naflex_deploy.runtime.backends.onnxruntime.session import OnnxRuntimeSession
from naflex_deploy.runtime.backends.openvino.session import OpenVinoSession
from naflex_deploy.runtime.packing.packer import balanced, pack_lengths

if TYPE_CHECKING:
    import openvino as ov

Pooled = npt.NDArray[np.float32]
Images = Sequence[Patches]

BUDGET = {"onnxruntime": 1024, "openvino": 4096}
"""Tokens of a pack, by backend: bf16 wants many rows."""

PATCH_VALUES = 768
"""Of a patch of 16x16 pixels."""


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


class Graphs:
    """The exported and lowered graphs of a model, in a folder where the processes of all contenders find them.

    Args:
        folder: A folder that `contenders.export_graphs` filled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.portable, self.single = folder / "portable.onnx", folder / "single.onnx"
        self.complete = folder / "complete"

    def variant(self, backend: str = "onnxruntime", precision: str = "fp32") -> Variant:
        """A variant that `contenders.lower` made."""
        return Variant.model_validate_json(self.entry(backend, precision).read_text())

    def entry(self, backend: str, precision: str) -> Path:
        """The file of a variant's manifest entry."""
        return self.folder / f"{backend}-{precision}.json"

    @property
    def samples(self) -> tuple[Patches, ...]:
        """Calibration images, of the same sizes as the images that are timed, but with other pixels."""
        (mixed,) = (mix for mix in mixes() if mix.name == "mixed")
        return tuple(mixed.images(PATCH_VALUES, seed=1))


def ours(graphs: Graphs, threads: int, layout: str, precision: str = "fp32", backend: str = "onnxruntime") -> Contender:
    """This project's engine, including packing.

    Args:
        graphs: The exported graphs.
        threads: Number of threads.
        layout: ``packed`` runs each pack on all cores, ``side by side`` runs packs of equal size on one core each, and
            ``one by one`` runs each image on all cores.
        precision: A precision of the backend.
        backend: ``onnxruntime`` or ``openvino``.
    """
    variant = graphs.variant(backend, precision)
    session: OnnxRuntimeSession | OpenVinoSession
    if backend == "openvino":
        session = OpenVinoSession(graphs.folder, variant, threads, threads if layout == "side by side" else 1)
    else:
        session = OnnxRuntimeSession(graphs.folder / variant.model, variant, threads, graphs.folder)
    worker = session.worker() if layout == "side by side" else session
    pool = ThreadPoolExecutor(threads)
    outputs = tuple(spec.name for spec in variant.outputs)

    def bind(images: Images) -> Callable[[], Pooled]:
        lengths = [len(image) for image in images]

        def divide() -> list[list[int]]:
            if layout == "one by one":
                return [[index] for index in range(len(images))]
            if layout == "side by side":
                for packs in range(threads, len(images) + 1, threads):
                    even = balanced(lengths, packs, BUDGET[backend], 64)
                    if even is not None:
                        return even
            return [pack.tolist() for pack in pack_lengths(lengths, BUDGET[backend], 64)]

        def run(members: list[int]) -> list[Pooled]:
            pack = Pack.of([images[index] for index in members])
            found = worker.run(pack, outputs)
            values = np.concatenate([np.asarray(found[name]) for name in outputs], axis=1)
            ends = pack.offsets[1:] * len(values) // pack.tokens if on_grid(outputs[0]) else range(1, pack.images + 1)
            return np.split(values, ends[:-1])

        def call() -> Pooled:
            packs = divide()
            found = pool.map(run, packs) if layout == "side by side" else map(run, packs)
            rows: list[Pooled] = [np.zeros(0, np.float32)] * len(images)
            for members, parts in zip(packs, found, strict=True):
                for index, part in zip(members, parts, strict=True):
                    rows[index] = part
            return np.concatenate(rows)

        return call

    return Contender(precision, True, bind)


def openvino(graphs: Graphs, threads: int, precision: str, streams: int = 1) -> Contender:
    """OpenVINO on the unmasked graph, one image at a time, with one stream on all cores or one stream per core."""
    import openvino as ov

    core = ov.Core()
    graph = _quantized(graphs) if precision == "int8" else core.read_model(str(graphs.single))
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


def _quantized(graphs: Graphs) -> ov.Model:
    """The graph of one image, quantised by NNCF once for all processes."""
    import openvino as ov

    path = graphs.folder / "single-int8.xml"
    if not path.exists():
        import nncf

        graph = ov.Core().read_model(str(graphs.single))
        names = [port.get_any_name() for port in graph.inputs]
        samples = nncf.Dataset([_feeds(image, names) for image in graphs.samples])
        found = nncf.quantize(graph, samples, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(graphs.samples))
        ov.save_model(found, path, compress_to_fp16=False)
    return ov.Core().read_model(str(path))
