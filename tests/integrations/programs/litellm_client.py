"""LiteLLM against ``naflex-deploy serve`` as each server that it may be taken for. litellm_client.py BUNDLE IMAGES"""

from __future__ import annotations

import asyncio
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # look up no prices

import litellm
import numpy as np
import pytest
from towers import KEY, close, pages, texts, towers, urls, words


def check(answer: litellm.EmbeddingResponse, expected: np.ndarray) -> None:
    close([entry["embedding"] for entry in answer.data], expected)


async def later(model: str, base: str) -> None:
    check(await litellm.aembedding(model=model, input=texts, api_base=base, api_key=KEY), words)


with towers() as url:
    bases = dict.fromkeys(("openai", "hosted_vllm", "infinity", "jina_ai"), url + "/v1") | {"cohere": url + "/v2/embed"}
    for provider, base in bases.items():
        model = f"{provider}/towers"
        check(litellm.embedding(model=model, input=texts, api_base=base, api_key=KEY), words)
        of_images = {"modality": "image"} if provider == "infinity" else {}
        check(litellm.embedding(model=model, input=urls, api_base=base, api_key=KEY, **of_images), pages)
        asyncio.run(later(model, base))
        with pytest.raises(litellm.exceptions.AuthenticationError):
            litellm.embedding(model=model, input=texts, api_base=base, api_key="wrong")
