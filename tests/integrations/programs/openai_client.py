"""OpenAI's client and LangChain's on top of it against ``naflex-deploy serve``. openai_client.py BUNDLE IMAGES"""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path

import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from serving import served

import naflex_deploy as nd

bundle, images = map(Path, sys.argv[1:])
files = sorted(path for path in images.iterdir() if path.suffix == ".png")
encoded = [base64.b64encode(path.read_bytes()).decode() for path in files]
engine = nd.load(bundle)
texts = ["a cat", "A photo of a DOG", "東京"]
pages, words = engine.embed(files), engine.text.embed(texts)
Path("keys").write_text("secret\n")


def close(data: list[openai.types.Embedding], expected: np.ndarray) -> None:
    np.testing.assert_allclose([item.embedding for item in data], expected, rtol=0, atol=1e-5 * np.abs(expected).max())


async def many(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="secret") as client:
        calls = [client.embeddings.create(model="towers", input=text) for text in texts]
        for row, answer in zip(words, await asyncio.gather(*calls), strict=True):
            close(answer.data, row[None])


with served(f"towers={bundle}", "--api-keys", "keys") as events:
    url = events["ready"]["url"] + "/v1"
    with openai.OpenAI(base_url=url, api_key="secret", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["towers"]
        close(client.embeddings.create(model="towers", input=texts).data, words)
        answer = client.embeddings.create(model="towers", input=texts[0], encoding_format="float")
        close(answer.data, words[:1])
        assert answer.usage.prompt_tokens > 0
        close(client.embeddings.create(model="towers", input=encoded).data, pages)
        both = [texts[0], "data:image/png;base64," + encoded[0], texts[1]]
        mixed = client.embeddings.create(model="towers", input=both)
        close(mixed.data, np.stack([words[0], pages[0], words[1]]))
        assert [item.index for item in mixed.data] == [0, 1, 2]
        scan = base64.b64encode((images / "pages.tiff").read_bytes()).decode()
        found = client.embeddings.create(model="towers", input=[scan])
        close(found.data, engine.embed([images / "pages.tiff"]))
        part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + encoded[0]}}
        asked = {"model": "towers", "messages": [{"role": "user", "content": [part]}], "encoding_format": "float"}
        as_vllm = client.post("/embeddings", cast_to=openai.types.CreateEmbeddingResponse, body=asked)
        close(as_vllm.data, pages[:1])
        with pytest.raises(openai.UnprocessableEntityError, match="expected null or"):
            client.embeddings.create(model="towers", input="x", dimensions=7)
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            client.embeddings.create(model="towers", input=["x", base64.b64encode(b"x" * 99).decode()])
        assert caught.value.param == "input[1]"
        with pytest.raises(openai.NotFoundError, match="no model named"):
            client.embeddings.create(model="absent", input="x")
    with (
        openai.OpenAI(base_url=url, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.embeddings.create(model="towers", input="x")
    asyncio.run(many(url))
    langchain = OpenAIEmbeddings(model="towers", base_url=url, api_key="secret", check_embedding_ctx_length=False)
    scale = 1e-5 * np.abs(words).max()
    np.testing.assert_allclose(langchain.embed_documents(texts), words, rtol=0, atol=scale)
    np.testing.assert_allclose(langchain.embed_query(texts[0]), words[0], rtol=0, atol=scale)
