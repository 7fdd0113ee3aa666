"""OpenAI's client and LangChain's on top of it against ``naflex-deploy serve``. openai_client.py BUNDLE IMAGES"""

from __future__ import annotations

import asyncio
import base64

import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from towers import KEY, close, encoded, engine, images, pages, texts, towers, urls, words


def check(data: list[openai.types.Embedding], expected: np.ndarray) -> None:
    close([item.embedding for item in data], expected)


async def many(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:
        calls = [client.embeddings.create(model="towers", input=text) for text in texts]
        for row, answer in zip(words, await asyncio.gather(*calls), strict=True):
            check(answer.data, row[None])


with towers() as server:
    url = f"{server}/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["towers"]
        check(client.embeddings.create(model="towers", input=texts).data, words)
        answer = client.embeddings.create(model="towers", input=texts[0], encoding_format="float")
        check(answer.data, words[:1])
        assert answer.usage.prompt_tokens > 0
        check(client.embeddings.create(model="towers", input=encoded).data, pages)
        both = [texts[0], urls[0], texts[1]]
        mixed = client.embeddings.create(model="towers", input=both)
        check(mixed.data, np.stack([words[0], pages[0], words[1]]))
        assert [item.index for item in mixed.data] == [0, 1, 2]
        scan = base64.b64encode((images / "pages.tiff").read_bytes()).decode()
        found = client.embeddings.create(model="towers", input=[scan])
        check(found.data, engine.embed([images / "pages.tiff"]))
        part = {"type": "image_url", "image_url": {"url": urls[0]}}
        asked = {"model": "towers", "messages": [{"role": "user", "content": [part]}], "encoding_format": "float"}
        as_vllm = client.post("/embeddings", cast_to=openai.types.CreateEmbeddingResponse, body=asked)
        check(as_vllm.data, pages[:1])
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
    langchain = OpenAIEmbeddings(model="towers", base_url=url, api_key=KEY, check_embedding_ctx_length=False)
    close(langchain.embed_documents(texts), words)
    close(langchain.embed_query(texts[0]), words[0])
