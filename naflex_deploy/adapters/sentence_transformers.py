"""An engine with the shape of SentenceTransformer, for code that calls ``model.encode``.

encoder = SentenceEncoder("build/search")
scores = encoder.similarity(encoder.encode(Path("page.png")), encoder.encode(["an invoice", "a letter"]))
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from naflex_deploy.adapters.engine import one_each, open_engine
from naflex_deploy.core.errors import UsageError, needs_extra
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.inputs import is_one
from naflex_deploy.runtime.results.embeddings import unit

IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".webp")
"""Suffixes by which SentenceTransformer takes a string for an image instead of a text."""


class NoModelCard:
    """Where evaluators of SentenceTransformer note their results; an engine keeps none."""

    def set_evaluation_metrics(self, *results: Any) -> None:
        pass


class SentenceEncoder:
    """Embeds images and texts in one space.

    Args:
        engine: An engine, or the directory of a bundle. Texts need one that was built with its text tower.
    """

    similarity_fn_name = "cosine"
    model_card_data = NoModelCard()

    def __init__(self, engine: Engine | str | PathLike[str]) -> None:
        self.engine = open_engine(engine)

    def get_embedding_dimension(self) -> int:
        """Length of the vectors."""
        return next(int(spec.shape[-1]) for spec in self.engine.variant.outputs if spec.name == "pooled")

    get_sentence_embedding_dimension = get_embedding_dimension

    def encode(
        self,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: str | None = "sentence_embedding",
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> Any:
        """Embed texts and images, in any mixture.

        A string is a text, unless it is the path of a file with the suffix of an image; everything else that an engine
        takes is an image. The engine packs by itself, on the device that it was built for, so that ``batch_size``,
        ``chunk_size``, ``device`` and ``show_progress_bar`` change nothing.

        Returns:
            [N, D] float32, or [D] of one input: an array, a torch tensor with ``convert_to_tensor``, and a list of
            tensors with neither.

        Raises:
            UsageError: There are prompts, another precision or length, or tokens are wanted; or there are texts, and
                the bundle has no text tower.
            ImageError: An input is not an image.
        """
        self._refuse(
            prompt_name=(prompt_name, (None,)),
            prompt=(prompt, (None, "")),
            output_value=(output_value, ("sentence_embedding",)),
            precision=(precision, ("float32",)),
            truncate_dim=(truncate_dim, (None, self.get_embedding_dimension())),
            pool=(pool, (None,)),
        )
        alone = isinstance(inputs, dict) or is_one(inputs)
        vectors = self._vectors([inputs] if alone else list(inputs))
        if normalize_embeddings:
            vectors = unit(vectors)
        if convert_to_tensor or not convert_to_numpy:
            with needs_extra("build"):
                import torch
            tensors = torch.from_numpy(vectors)
            return tensors[0] if alone else tensors if convert_to_tensor else list(tensors)
        return vectors[0] if alone else vectors

    encode_query = encode
    encode_document = encode

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines [N, M] of [N, D] and [M, D]: of the kind of ``embeddings1``, an array or a tensor."""
        return _like(embeddings1, _rows(embeddings1) @ _rows(embeddings2).T)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines [N] of [N, D] and [N, D], row by row."""
        return _like(embeddings1, (_rows(embeddings1) * _rows(embeddings2)).sum(-1))

    def _vectors(self, inputs: Sequence[Any]) -> npt.NDArray[np.float32]:
        kinds = [_kind(item) for item in inputs]
        vectors = np.zeros((len(inputs), self.get_embedding_dimension()), np.float32)
        texts = [number for number, (kind, _) in enumerate(kinds) if kind == "text"]
        images = [number for number, (kind, _) in enumerate(kinds) if kind == "image"]
        if texts:
            vectors[texts] = self.engine.text.embed([kinds[number][1] for number in texts])
        if images:
            vectors[images] = one_each(self.engine, [kinds[number][1] for number in images])
        return vectors

    def _refuse(self, **options: tuple[object, tuple[object, ...]]) -> None:
        for name, (value, accepted) in options.items():
            if value not in accepted:
                wanted = " or ".join(map(repr, accepted))
                raise UsageError(f"{name}: expected {wanted}, found {value!r}", hint=f"leave {name} out")


def _kind(item: Any) -> tuple[Literal["text", "image"], Any]:
    if isinstance(item, dict):
        if len(item) == 1 and next(iter(item)) in ("text", "image"):
            kind, value = next(iter(item.items()))
            return kind, value
        raise UsageError(
            f"expected a dictionary with either 'text' or 'image', found {', '.join(map(str, item)) or 'nothing'}",
            hint="pass texts and images as inputs of their own",
        )
    if not isinstance(item, str):
        return "image", item
    text = item.lower()
    url = text.startswith(("http://", "https://")) and " " not in text and text.partition("?")[0].endswith(IMAGES)
    if url or text.startswith("data:image/") or (text.endswith(IMAGES) and Path(item).is_file()):
        return "image", item
    return "text", item


def _rows(vectors: Any) -> npt.NDArray[np.float32]:
    if isinstance(vectors, list | tuple):
        return np.concatenate([_rows(vector) for vector in vectors])
    values = vectors.detach().cpu() if hasattr(vectors, "detach") else vectors
    return unit(np.atleast_2d(np.asarray(values, np.float32)))


def _like(vectors: Any, found: npt.NDArray[np.float32]) -> Any:
    first = vectors[0] if isinstance(vectors, list | tuple) else vectors
    if not hasattr(first, "detach"):
        return found
    import torch

    return torch.from_numpy(found)
