"""What images of any size cost over a plain vision transformer of one fixed resolution.

    python -m benchmarks.overhead [--tokens 196 576 1024] [--threads N] [--rounds 7] [--small] [--cpu-time]

The plain one has the same weights and runs in the same runtime, as fast as that can: positions of its one grid are
a constant, attention is one unmasked call on one image. Beside it runs the engine's graph, on one image (which adds
position interpolation and the choice between batch and loop), on a pack of four equal images and on a pack of four
that differ by a row (which add packing and isolation). Figures are time for each token over that of the plain one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime as ort

from benchmarks.support.contenders import Graphs, model
from benchmarks.support.timing import interleaved
from naflex_deploy.build.lower.cpu_attention import CONTRIB
from naflex_deploy.build.lower.onnxruntime import PASSES
from naflex_deploy.build.passes import manager
from naflex_deploy.build.passes.graphs import Model, evaluate, read, write
from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.runtime.sessions.onnxruntime import SETTINGS, OnnxRuntimeSession


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[196, 576, 1024])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--small", action="store_true", help="a narrow model: a test of the benchmark")
    parser.add_argument("--cpu-time", action="store_true", help="with one thread, on a machine that others use, too")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/overhead.json"))
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    graphs = Graphs(model(options.small))
    ours = OnnxRuntimeSession(graphs.folder / graphs.variant.model, graphs.variant, options.threads, graphs.folder)
    rows = []
    for tokens in options.tokens:
        rows.append(_measure(graphs, ours, tokens, options.threads, options.rounds, clock))
        print(json.dumps(rows[-1]))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"schema": 1, "threads": options.threads, "rows": rows}, indent=2) + "\n")


def _measure(
    graphs: Graphs, ours: OnnxRuntimeSession, tokens: int, threads: int, rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    side = round(tokens**0.5)
    grid = (side, tokens // side)
    width = int(graphs.variant.inputs[0].shape[1])
    image = _image(grid, width)
    fixed = plain(graphs, grid, threads)
    feed = {Role.PATCHES.value: image.pixels}
    wanted = fixed.run(None, feed)[0]
    packs = {
        "one image": [image],
        "four equal": [image] * 4,
        "four that differ": [_image((side - row, tokens // side), width) for row in (0, 1, 0, 1)],
    }
    calls: dict[str, Callable[[], object]] = {"plain": lambda: fixed.run(None, feed)}
    for name, images in packs.items():
        pack = Pack.of(images)
        found = ours.run(pack, ("pooled",))["pooled"][:1]
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max(), name
        calls[name] = lambda images=images: ours.run(Pack.of(images), ("pooled",))
    timings = interleaved(calls, rounds, clock)
    base = timings["plain"].median / tokens
    cost = {name: round(timings[name].median / sum(map(len, images)) / base - 1, 4) for name, images in packs.items()}
    return {"tokens": tokens, "plain_ms": round(timings["plain"].median * 1e3, 2), **cost}


def _image(grid: tuple[int, int], width: int) -> Patches:
    rng = np.random.default_rng(grid[1])
    pixels = rng.integers(0, 256, (grid[1] * grid[1] * 2, width), dtype=np.uint8)
    return Patches(pixels[: grid[0] * grid[1]], grid)


def plain(graphs: Graphs, grid: tuple[int, int], threads: int) -> ort.InferenceSession:
    """The model for images of one grid alone."""
    one = read(graphs.portable)
    manager.run(one, PASSES, complete=("fuse_positions", "fuse_attention", "fold_probe"))
    pack = Pack.of([_image(grid, 1)])
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
        _unpack(one, node)
    for tensor, value in feeds:
        for consumer in list(tensor.outputs):
            consumer.inputs[consumer.inputs.index(tensor)] = one.constant(tensor.name, value)
    one.graph.inputs = [tensor for tensor in one.graph.inputs if tensor.name == Role.PATCHES]
    path = graphs.folder / f"plain-{grid[0]}x{grid[1]}.onnx"
    write(one, path, graphs.folder)
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = threads
    for key, value in {
        **SETTINGS,
        "session.model_external_initializers_file_folder_path": str(graphs.folder),
    }.items():
        session_options.add_session_config_entry(key, value)
    return ort.InferenceSession(path.read_bytes(), session_options, providers=["CPUExecutionProvider"])


def _unpack(one: Model, node: gs.Node) -> None:
    """One unmasked call of [1, T, D]."""
    query, key, value = node.inputs[:3]
    (context,) = node.outputs
    node.outputs.clear()
    axis = one.constant("batch_axis", np.array([0], np.int64))
    rows = []
    for tensor in (query, key, value):
        row = one.variable(f"{tensor.name}_batch")
        one.graph.nodes.append(gs.Node("Unsqueeze", row.name, {}, [tensor, axis], [row]))
        rows.append(row)
    mixed = one.variable(f"{context.name}_batch")
    attributes = {"num_heads": node.attrs["heads"], "scale": node.attrs["scale"]}
    one.graph.nodes.append(gs.Node("MultiHeadAttention", mixed.name, attributes, rows, [mixed], domain=CONTRIB))
    one.graph.nodes.append(gs.Node("Squeeze", f"{mixed.name}_rows", {}, [mixed, axis], [context]))


if __name__ == "__main__":
    main()
