"""Measures the overhead of supporting images of any size, over a plain vision transformer of one fixed resolution.

    python -m benchmarks.peers.overhead [--tokens 196 576 1024] [--images 1 4] [--threads N] [--seconds 60] [--small]

The plain model has the same weights and runs in the same runtime, as fast as that allows: the positions of its single
grid are a constant, and attention is unmasked on a batch of images of one size. The engine's graph runs on the same
images, and also on images of the same total number of tokens that differ by a row. Both are loaded again and again and
take turns, as in `naflex-deploy bench A B`. Figures are the additional time relative to the plain model, with a 99 %
interval.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort

from benchmarks.peers.contenders import export_graphs, lower
from benchmarks.peers.engines import Graphs
from naflex_deploy.bench.compare.compare import Contender, Loaded, compare
from naflex_deploy.compiler.backends.onnxruntime.lowering import PASSES
from naflex_deploy.compiler.passes import manager
from naflex_deploy.compiler.passes.attend_by_image import CONTRIB
from naflex_deploy.compiler.passes.graphs import Model, evaluate, read, write
from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.runtime.backends.onnxruntime.session import SETTINGS, OnnxRuntimeSession

Grid = tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[196, 576, 1024], help="tokens per image")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 4], help="images per pack")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seconds", type=float, default=60, help="for each number of tokens and images, at least")
    parser.add_argument("--small", action="store_true", help="use a narrow model, to test the benchmark")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, for one thread on a shared machine")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/overhead.json"))
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory(prefix="naflex-overhead-") as folder:
        graphs = export_graphs("small" if options.small else "siglip2-base", Path(folder))
        lower(graphs)
        _write(graphs, options, clock)


def _write(graphs: Graphs, options: argparse.Namespace, clock: Callable[[], float]) -> None:
    rows = []
    for tokens in options.tokens:
        for images in options.images:
            for row in _measure(graphs, tokens, images, options.threads, options.seconds, clock):
                rows.append(row)
                print(json.dumps(row), flush=True)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"schema": 2, "threads": options.threads, "rows": rows}, indent=2) + "\n")


def _measure(
    graphs: Graphs, tokens: int, count: int, threads: int, seconds: float, clock: Callable[[], float]
) -> list[dict[str, object]]:
    side = round(tokens**0.5)
    grid = (side, tokens // side)
    packs = {"equal": [grid] * count}
    if count > 1:
        shifts = [0] * (count % 2) + [-1, 1] * (count // 2)
        packs["that differ"] = [(side + shift, grid[1]) for shift in shifts]
    images = {
        name: [_image(one, int(graphs.variant().inputs[0].shape[1])) for one in pack] for name, pack in packs.items()
    }
    path = plain(graphs, grid, count)
    feed = {Role.PATCHES.value: np.concatenate([image.pixels for image in images["equal"]])}

    def load_plain() -> Loaded:
        session = _session(path, graphs, threads)
        return Loaded({name: [partial(session.run, None, feed)] for name in packs})

    def load_ours() -> Loaded:
        session = OnnxRuntimeSession(graphs.folder / graphs.variant().model, graphs.variant(), threads, graphs.folder)

        def run(pack: Sequence[Patches]) -> np.ndarray:
            return session.run(Pack.of(pack), ("pooled",))["pooled"]

        return Loaded({name: [partial(run, pack)] for name, pack in images.items()})

    batch = load_plain().workloads["equal"][0]()[0]
    for name, (call,) in load_ours().workloads.items():
        first = images[name][0]
        alone = _session(plain(graphs, first.grid_hw, 1), graphs, threads).run(None, {Role.PATCHES.value: first.pixels})
        for wanted in [alone[0], *([batch] if name == "equal" else [])]:
            assert np.abs(call()[: len(wanted)] - wanted).max() <= 1e-4 * np.abs(wanted).max(), name
    ratios = compare(
        Contender("plain", load_plain), Contender("ours", load_ours), width=0.01, seconds=seconds, clock=clock
    )
    return [
        {
            "tokens": tokens,
            "images": f"{count} {ratio.workload}" if count > 1 else "1",
            "plain_ms": round(1e3 * ratio.first, 2),
            "cost": round(ratio.speed.estimate - 1, 4),
            "from": round(ratio.speed.low - 1, 4),
            "to": round(ratio.speed.high - 1, 4),
        }
        for ratio in ratios
    ]


def _image(grid: Grid, width: int) -> Patches:
    pixels = np.random.default_rng(grid[0]).integers(0, 256, (grid[0] * grid[1], width), dtype=np.uint8)
    return Patches(pixels, grid)


def plain(graphs: Graphs, grid: Grid, count: int) -> Path:
    """Write the model for a batch of images that all have the same grid."""
    one = read(graphs.portable)
    manager.run(one, PASSES, complete=("fuse_positions", "fuse_attention", "fold_probe"))
    pack = Pack.of([_image(grid, 1)] * count)
    feeds = [(tensor, pack.view(Role(tensor.name))) for tensor in one.graph.inputs if tensor.name != Role.PATCHES]
    original = read(graphs.portable)
    (position,) = [node for node in one.graph.nodes if node.op == "PositionInterpolation"]
    (embedding,) = position.outputs
    source = original.graph.tensors()[embedding.name]
    inputs = original.graph.inputs
    known = [(tensor, value) for tensor in inputs for own, value in feeds if own.name == tensor.name]
    values = evaluate(source, known, original.graph.opset)
    position.outputs.clear()
    for consumer in list(embedding.outputs):
        consumer.inputs[consumer.inputs.index(embedding)] = one.constant("positions", np.asarray(values))
    for node in [node for node in one.graph.nodes if node.op == "PackedAttention"]:
        _unpack(one, node, count, int(graphs.variant().outputs[0].shape[-1]))
    for tensor, value in feeds:
        for consumer in list(tensor.outputs):
            consumer.inputs[consumer.inputs.index(tensor)] = one.constant(tensor.name, value)
    one.graph.inputs = [tensor for tensor in one.graph.inputs if tensor.name == Role.PATCHES]
    path = graphs.folder / f"plain-{count}x{grid[0]}x{grid[1]}.onnx"
    write(one, path, graphs.folder)
    return path


def _session(path: Path, graphs: Graphs, threads: int) -> ort.InferenceSession:
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = threads
    folder = {"session.model_external_initializers_file_folder_path": str(graphs.folder)}
    for key, value in {**SETTINGS, **folder}.items():
        session_options.add_session_config_entry(key, value)
    return ort.InferenceSession(path.read_bytes(), session_options, providers=["CPUExecutionProvider"])


def _unpack(one: Model, node: gs.Node, count: int, width: int) -> None:
    """Replace a packed attention by one unmasked call on [images, tokens, D]."""
    query, key, value = node.inputs[:3]
    (context,) = node.outputs
    node.outputs.clear()
    batch = one.constant("batch_shape", np.array([count, -1, width], np.int64))
    packed = one.constant("packed_shape", np.array([-1, width], np.int64))
    rows = []
    for tensor in (query, key, value):
        row = one.variable(f"{tensor.name}_batch")
        one.graph.nodes.append(gs.Node("Reshape", row.name, {}, [tensor, batch], [row]))
        rows.append(row)
    mixed = one.variable(f"{context.name}_batch")
    attributes = {"num_heads": node.attrs["heads"], "scale": node.attrs["scale"]}
    one.graph.nodes.append(gs.Node("MultiHeadAttention", mixed.name, attributes, rows, [mixed], domain=CONTRIB))
    one.graph.nodes.append(gs.Node("Reshape", f"{mixed.name}_rows", {}, [mixed, packed], [context]))


if __name__ == "__main__":
    main()
