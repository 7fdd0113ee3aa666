"""The arithmetic that any implementation of a model has to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def useful_gflop(model: Mapping[str, int], lengths: Sequence[int], *, attention: bool = True) -> float:
    """GFLOP that any implementation has to do, where a multiplication and an addition count as two.

    These are the matrix products of the projection, the blocks and the head's MLP, or the projectors of a tower, and
    attention's two products over the tokens of each image. Keys and values of the pooling head are not counted, because
    folding its probe saves them.

    Args:
        model: ``width``, ``mlp_width``, ``depth`` and ``patch_values``; for a tower also ``projector``, the
            multiplications of its projectors for each patch.
        lengths: Tokens of each image.
        attention: Whether to count attention's two products.
    """
    width, hidden, depth = model["width"], model["mlp_width"], model["depth"]
    projector = model.get("projector", 0)
    token = 2 * (model["patch_values"] * width + depth * (4 * width**2 + 2 * width * hidden) + projector)
    image = 0 if projector else 2 * (2 * width**2 + 2 * width * hidden)
    scores = 4 * width * depth * sum(length**2 for length in lengths)
    return (token * sum(lengths) + image * len(lengths) + (scores if attention else 0)) / 1e9
