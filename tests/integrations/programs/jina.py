"""The components with which Haystack asks Jina, against ``naflex-deploy serve``. jina.py BUNDLE IMAGES"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

import numpy as np
import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.jina import (
    JinaDocumentEmbedder,
    JinaDocumentImageEmbedder,
    JinaTextEmbedder,
)
from serving import served

import naflex_deploy as nd

bundle, images = map(Path, sys.argv[1:])
files = sorted(path for path in images.iterdir() if path.suffix == ".png")
engine = nd.load(bundle)
texts = ["a cat", "A photo of a DOG", "東京"]
pages, words = engine.embed(files), engine.text.embed(texts)
Path("keys").write_text("secret\n")


def close(found: object, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


with served(f"towers={bundle}", "--api-keys", "keys") as events:
    where = {"model": "towers", "base_url": events["ready"]["url"] + "/v1/embeddings"}
    key = Secret.from_token("secret")
    seen = JinaDocumentImageEmbedder(api_key=key, batch_size=3, **where).run(
        [Document(content="", meta={"file_path": str(path)}) for path in files]
    )
    close([document.embedding for document in seen["documents"]], pages)
    read = JinaDocumentEmbedder(api_key=key, **where).run([Document(content=text) for text in texts])
    close([document.embedding for document in read["documents"]], words)
    asked = JinaTextEmbedder(api_key=key, dimensions=words.shape[1], **where)
    close(asked.run(texts[0])["embedding"], words[0])
    close(asyncio.run(asked.run_async(texts[1]))["embedding"], words[1])
    with pytest.raises(KeyError):  # Jina says what is wrong in `detail`, which is not OpenAI's form of an error
        JinaTextEmbedder(api_key=key, dimensions=7, **where).run(texts[0])
