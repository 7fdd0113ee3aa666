"""LiteLLM against ``naflex-deploy serve`` as each server that it may be taken for. litellm_client.py BUNDLE IMAGES"""

from __future__ import annotations

import asyncio
import base64
import os
import sys
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # look up no prices

import litellm
import numpy as np
import pytest
from serving import served

import naflex_deploy as nd

bundle, images = map(Path, sys.argv[1:])
files = sorted(path for path in images.iterdir() if path.suffix == ".png")
urls = ["data:image/png;base64," + base64.b64encode(path.read_bytes()).decode() for path in files]
engine = nd.load(bundle)
texts = ["a cat", "A photo of a DOG", "東京"]
pages, words = engine.embed(files), engine.text.embed(texts)
Path("keys").write_text("secret\n")


def close(answer: litellm.EmbeddingResponse, expected: np.ndarray) -> None:
    found = [entry["embedding"] for entry in answer.data]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


async def later(model: str, base: str) -> None:
    close(await litellm.aembedding(model=model, input=texts, api_base=base, api_key="secret"), words)


with served(f"towers={bundle}", "--api-keys", "keys") as events:
    url = events["ready"]["url"]
    bases = dict.fromkeys(("openai", "hosted_vllm", "infinity", "jina_ai"), url + "/v1") | {"cohere": url + "/v2/embed"}
    for provider, base in bases.items():
        model = f"{provider}/towers"
        close(litellm.embedding(model=model, input=texts, api_base=base, api_key="secret"), words)
        of_images = {"modality": "image"} if provider == "infinity" else {}
        close(litellm.embedding(model=model, input=urls, api_base=base, api_key="secret", **of_images), pages)
        asyncio.run(later(model, base))
        with pytest.raises(litellm.exceptions.AuthenticationError):
            litellm.embedding(model=model, input=texts, api_base=base, api_key="wrong")
