"""The exported graph, fed by our preprocessing, against what the original said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from PIL import Image

from naflex_deploy.compiler.witness.process import Answer
from naflex_deploy.compiler.witness.request import MODEL_TOKENS, TEXTS, TOKENS, images, sizes_for
from naflex_deploy.core.manifest import TextTower, Witness
from naflex_deploy.core.pack import Pack, Patches, Role, in_blocks, on_grid
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.backends.onnxruntime.session import session_options
from naflex_deploy.runtime.images.cutting import Cutter
from naflex_deploy.runtime.text_encoder import Tokenizer, open_tower

Float = npt.NDArray[np.float32]

TOLERANCE = 1e-5
"""Greatest max |Δ| over max |original| of an output, that of float32."""


def compare(answer: Answer, bundle: Path, preprocessing: Preprocessing, prefix: int, text: TextTower | None) -> Witness:
    """How the portable graph of a bundle compares with the original.

    Args:
        answer: The original's.
        bundle: Holds ``portable.onnx`` and, with ``text``, the text tower.
        preprocessing: Ours.
        prefix: Prefix tokens of the model.
        text: The text tower, if there is one.
    """
    if answer.reason:
        return Witness(status="skipped", reason=answer.reason)
    patches = prepared(preprocessing)
    pack = Pack.of(patches, prefix=prefix)
    found = by_image(_run(bundle / "portable.onnx", pack), pack, preprocessing.merge)
    if text is not None:
        found["texts"] = _embed(bundle, text)
    grids = [image.grid_hw for image in patches]
    return judge(found, answer, grids)


def prepared(preprocessing: Preprocessing) -> list[Patches]:
    """The patches of the images that the original is asked for, as the runtime makes them."""
    if preprocessing.sizing is None:
        cutter = Cutter(ImageSection(tokens=TOKENS, fit="fill"), preprocessing, TOKENS)
    else:
        cutter = Cutter(ImageSection(tokens=MODEL_TOKENS, fit="model"), preprocessing, MODEL_TOKENS)
    patches = []
    for pixels in images(preprocessing.patch_size, sizes_for(preprocessing)):
        layout = cutter.layout((pixels.shape[0], pixels.shape[1]))
        patches.append(cutter.patches(Image.fromarray(pixels), layout.whole))
    return patches


def judge(found: Mapping[str, Float], answer: Answer, grids: list[tuple[int, int]]) -> Witness:
    """The outcome: every output that the graph has must be one that the original has, and equal to it.

    Args:
        found: Ours, named as the original's.
        answer: The original's.
        grids: (rows, columns) of each image.
    """
    errors: dict[str, float] = {}
    reasons = []
    for key, ours in found.items():
        name, _, index = key.partition("/")
        theirs = answer.outputs.get(key)
        where = f"{name} of an image of {'x'.join(map(str, grids[int(index)]))} patches" if index else name
        if theirs is None or theirs.shape != ours.shape:
            shape = "none" if theirs is None else str(list(theirs.shape))
            reasons.append(f"{where}: expected shape {shape}, found {list(ours.shape)}")
            continue
        error = float(np.abs(ours.astype(np.float64) - theirs).max() / np.abs(theirs).max())
        errors[name] = max(errors.get(name, 0.0), error)
        if not error <= TOLERANCE:
            reasons.append(f"{where} is off by {error:.1e} of the largest value")
    return Witness(
        status="failed" if reasons else "passed",
        reason=reasons[0] if reasons else "",
        original=answer.original,
        errors={name: float(f"{error:.2e}") for name, error in errors.items()},
        grids=grids,
    )


def _run(graph: Path, pack: Pack) -> dict[str, Float]:
    session = ort.InferenceSession(str(graph), session_options(graph.parent), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    feeds = {value.name: pack.view(Role(value.name)) for value in session.get_inputs()}
    return dict(zip(names, session.run(names, feeds), strict=True))


def by_image(outputs: Mapping[str, Float], pack: Pack, merge: int = 1) -> dict[str, Float]:
    found = {}
    for name, values in outputs.items():
        block = merge**2 if in_blocks(name) else 1
        for index in range(pack.images):
            rows = slice(pack.offsets[index] // block, pack.offsets[index + 1] // block)
            found[f"{name}/{index}"] = values[rows] if on_grid(name) else values[index]
    return found


def _embed(bundle: Path, text: TextTower) -> Float:
    ids, mask = Tokenizer(bundle / text.tokenizer, text.tokens).encode(TEXTS)
    feeds = {"ids": ids} | ({"mask": mask} if text.tokens.mask else {})
    (vectors,) = open_tower(bundle / text.model).run(None, feeds)
    found: Float = vectors
    return found
