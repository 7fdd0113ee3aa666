"""Cohere's clients, of both versions, against ``naflex-deploy serve``. cohere_client.py BUNDLE IMAGES"""

from __future__ import annotations

import asyncio
import base64

import cohere
import numpy as np
import pytest
from towers import KEY, close, pages, texts, towers, urls, words


async def many(url: str) -> None:
    async with cohere.AsyncClientV2(KEY, base_url=url) as client:
        calls = [client.embed(model="towers", texts=[text], input_type="search_query") for text in texts]
        for row, answer in zip(words, await asyncio.gather(*calls), strict=True):
            close(answer.embeddings.float_, row[None])


with towers() as url:
    client = cohere.ClientV2(KEY, base_url=url)
    answer = client.embed(model="towers", texts=texts, input_type="search_document", embedding_types=["float"])
    close(answer.embeddings.float_, words)
    assert answer.texts == texts
    assert answer.meta.billed_units.input_tokens > 0
    answer = client.embed(model="towers", images=urls, input_type="image", embedding_types=["float"], truncate="NONE")
    close(answer.embeddings.float_, pages)
    assert answer.meta.billed_units.images == len(urls)
    mixed = [{"content": [{"type": "image_url", "image_url": {"url": urls[0]}}]}]
    mixed.append({"content": [{"type": "text", "text": texts[0]}]})
    answer = client.embed(model="towers", inputs=mixed, input_type="search_document", embedding_types=["base64"])
    found = [np.frombuffer(base64.b64decode(text), "<f4") for text in answer.embeddings.base64]
    close(found, np.stack([pages[0], words[0]]))
    with pytest.raises(cohere.UnprocessableEntityError) as refused:
        client.embed(model="towers", texts=texts, input_type="search_query", output_dimension=7)
    assert "expected null or" in refused.value.body["message"]
    with pytest.raises(cohere.NotFoundError):
        client.embed(model="absent", texts=texts, input_type="search_query")
    with pytest.raises(cohere.UnauthorizedError):
        cohere.ClientV2("wrong", base_url=url).embed(model="towers", texts=texts, input_type="search_query")
    old = cohere.Client(KEY, base_url=url)
    close(old.embed(model="towers", texts=texts, input_type="search_query").embeddings, words)
    typed = old.embed(model="towers", images=urls[:1], input_type="image", embedding_types=["float"])
    close(typed.embeddings.float_, pages[:1])
    asyncio.run(many(url))
