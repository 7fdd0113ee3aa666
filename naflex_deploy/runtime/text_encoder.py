"""Embed texts in the space of the image vectors, with a SigLIP2 text tower on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import IncompatibleError, MissingExtraError, UsageError
from naflex_deploy.core.manifest import TextTower, Tokenization
from naflex_deploy.runtime.backends.memory import detached
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.results.embeddings import unit

Float = npt.NDArray[np.float32]

BATCH = 64
"""Maximum number of texts per call of the engine, which bounds memory."""


class Tokenizer:
    """Turns texts into rows of token ids as SigLIP2 was trained: lower case, truncated and padded to one length.

    Args:
        path: Path of a ``tokenizer.json``.
        spec: Length and padding.

    Raises:
        MissingExtraError: The package ``tokenizers`` is not installed.
        UsageError: The file is missing, is not a tokenizer, or lacks the padding token.
    """

    def __init__(self, path: Path, spec: Tokenization) -> None:
        try:
            import tokenizers
        except ImportError:
            raise MissingExtraError("tokenizers", "text") from None
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises bare exceptions
            raise UsageError(f"{path} is not a tokenizer: {error}", hint="save or copy it again") from None
        pad = self._tokenizer.token_to_id(spec.pad_token)
        if pad is None:
            raise UsageError(
                f"{path}: expected the padding token '{spec.pad_token}', found none", hint="save or copy it again"
            )
        self._tokenizer.enable_truncation(spec.length)
        self._tokenizer.enable_padding(direction=spec.side, pad_id=pad, pad_token=spec.pad_token, length=spec.length)
        self._lowercase = tokenizers.normalizers.Lowercase()
        self._length = spec.length

    def __call__(self, texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Token ids [N, length] int64."""
        return self.encode(texts)[0]

    def encode(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Token ids [N, length] int64, and which of them are no padding [N, length] bool."""
        rows = self._rows(texts)
        ids = np.array([row.ids for row in rows], np.int64).reshape(-1, self._length)
        return ids, np.array([row.attention_mask for row in rows], np.bool_).reshape(-1, self._length)

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text has more tokens than the length, so that its end is lost."""
        return [bool(row.overflowing) for row in self._rows(texts)]

    def _rows(self, texts: Sequence[str]) -> list[Any]:
        found: list[Any] = self._tokenizer.encode_batch([self._lowercase.normalize_str(text) for text in texts])
        return found


class TextEncoder:
    """The text tower of a bundle.

    Args:
        bundle: A bundle that was built with its text tower. The tower's files are checked before they are read.

    Raises:
        UsageError: The bundle has no text tower.
        BundleError: A file of the text tower is missing or changed.
    """

    def __init__(self, bundle: Bundle) -> None:
        spec = bundle.manifest.text
        if spec is None:
            raise UsageError(f"{bundle.path} has no text tower", hint="build it again with --text")
        bundle.check(spec.files)
        self.spec: TextTower = spec
        self._tokenize = Tokenizer(bundle.path / spec.tokenizer, spec.tokens)
        self._session = open_tower(bundle.path / spec.model)

    def embed(self, texts: str | Sequence[str], *, normalize: bool = False) -> Float:
        """Embed every text: [N, D] float32, in order; [D] of one text that is not in a list.

        Args:
            texts: One text, or several.
            normalize: Divide each vector by its length.
        """
        if isinstance(texts, str):
            return np.asarray(self.embed([texts], normalize=normalize)[0])
        vectors, _ = self.encode(texts)
        return unit(vectors) if normalize else vectors

    def encode(self, texts: Sequence[str]) -> tuple[Float, npt.NDArray[np.int64]]:
        """Vectors [N, D] of several texts, and how many tokens each has [N], padding not counted."""
        width = int(self._session.get_outputs()[0].shape[-1])
        rows, counts = [np.zeros((0, width), np.float32)], [np.zeros(0, np.int64)]
        for start in range(0, len(texts), BATCH):
            ids, mask = self._tokenize.encode(texts[start : start + BATCH])
            rows += self._session.run(None, {"ids": ids} | ({"mask": mask} if self.spec.tokens.mask else {}))
            counts.append(mask.sum(1))
        return np.concatenate(rows), np.concatenate(counts)

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text has more tokens than the tower reads, so that its end is lost."""
        return self._tokenize.cut(texts)

    def logits(self, images: Float, texts: Float) -> Float:
        """Logits of the match between images and texts; their sigmoid is a probability.

        The logit is ``scale · cos(image, text) + bias``, as in the training of SigLIP.

        Args:
            images: [N, D] vectors of images.
            texts: [M, D] vectors of texts.

        Returns:
            [N, M] float32.
        """
        cosines: Float = unit(images) @ unit(texts).T
        return np.float32(self.spec.scale) * cosines + np.float32(self.spec.bias)


def open_tower(path: Path) -> Any:
    """Load a text tower's graph into ONNX Runtime: ``ids`` [N, length] int64 → ``vectors`` [N, D] float32.

    Where padding is masked it takes ``mask`` [N, length] bool as well.

    Raises:
        IncompatibleError: ONNX Runtime cannot load the graph.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    try:
        with detached(path.parent.glob("*")):
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises bare exceptions of its own
        raise IncompatibleError(
            f"ONNX Runtime {ort.__version__} cannot load {path}: {str(error).splitlines()[0]}",
            hint="upgrade onnxruntime, or build the bundle again",
        ) from None
