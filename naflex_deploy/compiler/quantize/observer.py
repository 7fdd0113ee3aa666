"""Runs a model on packs to observe the inputs of its linear layers.

The graph is cut before each block, and the pieces run one after another, so that memory only ever holds the
activations of one block, whatever the depth of the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime as ort

from naflex_deploy.compiler.passes import manager
from naflex_deploy.compiler.passes.attend_by_image import lower_attention
from naflex_deploy.compiler.passes.graphs import Model, read, sources_of, write
from naflex_deploy.compiler.quantize.observation import Float32
from naflex_deploy.core.machine import cores
from naflex_deploy.core.pack import Pack, Role
from naflex_deploy.runtime.backends.onnxruntime.session import session_options

PASSES = ("fuse_positions", "fuse_attention")
BLOCK = re.compile(r"blocks\.(\d+)\.norm1/LayerNormalization")

Sites = tuple[str, ...]
"""All names of a tensor that linear layers read, such as ``blocks.0.query.input``, ``blocks.0.key.input``, …"""


@dataclass(frozen=True)
class Piece:
    """A part of the graph that ends where the next one begins.

    Attributes:
        session: A session whose last output is the tensor for the next piece, if there is one.
        entry: Name of the tensor that the previous piece hands over; ``None`` for the first piece.
        sites: The sites of each output. The tensor for the next piece has none, unless a linear layer reads it.
    """

    session: ort.InferenceSession
    entry: str | None
    sites: list[Sites]

    def run(self, pack: Pack, carried: Float32 | None) -> list[Float32]:
        """Run the piece and return its outputs."""
        names = [value.name for value in self.session.get_inputs()]
        feeds = {name: carried if name == self.entry else pack.view(Role(name)) for name in names}
        found: list[Float32] = self.session.run(None, feeds)
        return found


class Observer:
    """A portable graph, ready to be run on packs without a tail.

    Args:
        portable: The graph that `export` wrote. The pieces share its weights, and leave no file beside it.
        threads: Number of threads of a run; 0 for one per core.

    Raises:
        PassError: An attention was not recognised.
    """

    def __init__(self, portable: Path, threads: int = 0) -> None:
        model = read(portable)
        manager.run(model, PASSES, complete=("fuse_attention",))
        model.tidy()
        sites, cuts = _sites(model), _cuts(model)
        place = {tensor.name: index for index, node in enumerate(model.graph.nodes) for tensor in node.outputs}
        self._pieces = []
        for entry, leave in zip([None, *cuts], [*cuts, None], strict=True):
            start, end = place[entry] if entry else -1, place[leave] if leave else len(place)
            own = [name for name in sites if start < place[name] < end] + ([leave] if leave else [])
            session = _opened(_cut(model, entry, own), portable.parent, threads or cores())
            self._pieces.append(Piece(session, entry, [sites.get(name, ()) for name in own]))

    @property
    def sites(self) -> list[Sites]:
        """Every site, in the order of the graph."""
        return [names for piece in self._pieces for names in piece.sites if names]

    def activations(self, pack: Pack) -> Iterator[tuple[Sites, Float32]]:
        """Run a pack, and yield every site with its activation, in the order of the graph.

        Args:
            pack: A pack without a tail, because the tokens of a tail belong to no image.

        Yields:
            The names of the site, and the activation: [T, C], or [M, C] after pooling. Do not keep activations, or
            memory is no longer bounded.
        """
        carried: Float32 | None = None
        for piece in self._pieces:
            found = piece.run(pack, carried)
            carried = found[-1]
            for names in piece.sites:
                activation = found.pop(0)
                if names:
                    yield names, activation


def _cut(model: Model, entry: str | None, tensors: list[str]) -> Model:
    """The part of a graph that computes some tensors, starting from the entry if there is one."""
    piece = Model(model.graph.copy(), model.functions, model.stored)
    named = piece.graph.tensors()
    if entry is not None:
        named[entry].inputs.clear()
        named[entry].dtype = np.dtype(np.float32)
        piece.graph.inputs.append(named[entry])
    piece.graph.outputs = [named[name] for name in tensors]
    for tensor in piece.graph.outputs:
        tensor.dtype = np.dtype(np.float32)
    piece.tidy()
    lower_attention(piece)
    return piece


def _opened(piece: Model, root: Path, threads: int) -> ort.InferenceSession:
    """Load a part of a graph whose weights are in ``root``, leaving no file there."""
    options = session_options(root)
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False  # Otherwise every session would keep its peak memory.
    with TemporaryDirectory(dir=root) as folder:
        path = Path(folder) / "piece.onnx"
        write(piece, path, root)
        return ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def _sites(model: Model) -> dict[str, Sites]:
    """The sites of each tensor that depends on pixels and that a linear layer reads."""
    found: dict[str, list[str]] = {}
    for node in model.graph.nodes:
        if node.op == "Gemm" and Role.PATCHES in sources_of(model, node.inputs[0]):
            found.setdefault(node.inputs[0].name, []).append(f"{node.name.rpartition('/')[0]}.input")
    return {tensor: tuple(names) for tensor, names in found.items()}


def _cuts(model: Model) -> list[str]:
    """The tensors with which the blocks begin, except for the first block."""
    found = {int(match[1]): node for node in model.graph.nodes if (match := BLOCK.fullmatch(node.name))}
    return [found[index].inputs[0].name for index in sorted(found) if index > 0]
