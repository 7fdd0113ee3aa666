"""A bundle of two towers behind ``naflex-deploy serve``, and the vectors that its clients have to get."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from serving import served

import naflex_deploy as nd

KEY = "secret"

bundle, images = map(Path, sys.argv[1:])
files = sorted(path for path in images.iterdir() if path.suffix == ".png")
encoded = [base64.b64encode(path.read_bytes()).decode() for path in files]
urls = [f"data:image/png;base64,{content}" for content in encoded]
texts = ["a cat", "A photo of a DOG", "東京"]
engine = nd.load(bundle)
pages, words = engine.embed(files), engine.text.embed(texts)


def close(found: npt.ArrayLike, expected: npt.NDArray[np.float32]) -> None:
    """Fail where vectors differ by more than 1e-5 of the largest value."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@contextmanager
def towers() -> Iterator[str]:
    """The URL of the server, which asks for `KEY` and has one model, ``towers``."""
    Path("keys").write_text(f"{KEY}\n")
    with served(f"towers={bundle}", "--api-keys", "keys") as events:
        yield events["ready"]["url"]
