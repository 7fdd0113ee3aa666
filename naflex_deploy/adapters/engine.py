"""What every adapter takes as its engine, and the vectors that it gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path

from naflex_deploy.core.errors import UsageError
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.source import describe
from naflex_deploy.runtime.loading import load_engine
from naflex_deploy.runtime.packing.pack_stream import Image
from naflex_deploy.runtime.results.embeddings import Float, unit


def open_engine(engine: Engine | str | PathLike[str]) -> Engine:
    """An engine as it is, or that of a bundle's directory."""
    return engine if isinstance(engine, Engine) else load_engine(Path(engine))


def text_vectors(engine: Engine, texts: Sequence[str]) -> list[list[float]]:
    """Vectors of length 1, one per text.

    Raises:
        UsageError: The bundle has no text tower.
    """
    vectors: list[list[float]] = engine.text.embed(list(texts), normalize=True).tolist()
    return vectors


def image_vectors(engine: Engine, images: Iterable[Image]) -> list[list[float]]:
    """Vectors of length 1, one per image; errors as in `one_each`."""
    vectors: list[list[float]] = unit(one_each(engine, list(images))).tolist()
    return vectors


def one_each(engine: Engine, images: Sequence[Image]) -> Float:
    """One vector per image: [N, D] float32.

    Raises:
        UsageError: An input has several frames, so that there would be more vectors than inputs; names it.
        ImageError: An input is not an image.
    """
    found = engine.embed(images, return_index=True)
    if len(found) != len(images):
        several = int(found.inputs[found.frames > 0][0])
        raise UsageError(
            f"{describe(images[several])}: expected one image, found {int((found.inputs == several).sum())} frames",
            hint="embed documents with Engine.embed(..., return_index=True), which says which vector is of which page",
        )
    return found.vectors
