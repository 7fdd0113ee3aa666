"""infinity's client against ``naflex-deploy serve``. infinity.py BUNDLE IMAGES"""

from __future__ import annotations

import asyncio

import numpy as np
from infinity_client import AuthenticatedClient, Client
from infinity_client.api.default import embeddings
from infinity_client.models import EmbeddingEncodingFormat, OpenAIEmbeddingInputImage, OpenAIEmbeddingInputText
from towers import KEY, close, pages, texts, towers, urls, words

of_images = OpenAIEmbeddingInputImage(urls, model="towers")
of_texts = OpenAIEmbeddingInputText(texts, model="towers", encoding_format=EmbeddingEncodingFormat.FLOAT)


def check(answer: object, expected: np.ndarray) -> None:
    assert [entry.index for entry in answer.data] == list(range(len(expected)))
    close([entry.embedding for entry in answer.data], expected)


async def side_by_side(client: Client) -> None:
    async with client as entered:
        of_pages, of_words = await asyncio.gather(
            embeddings.asyncio(client=entered, body=of_images), embeddings.asyncio(client=entered, body=of_texts)
        )
    check(of_pages, pages)
    check(of_words, words)


with towers() as server:
    url = f"{server}/v1"
    with AuthenticatedClient(url, KEY) as client:
        answer = embeddings.sync(client=client, body=of_images)
        check(answer, pages)
        assert answer.usage.total_tokens > 0
        check(embeddings.sync(client=client, body=of_texts), words)
        bad = OpenAIEmbeddingInputImage(["https://example.org/a.png"], model="towers")
        assert embeddings.sync_detailed(client=client, body=bad).status_code == 422
    asyncio.run(side_by_side(AuthenticatedClient(url, KEY)))
    with Client(url) as nobody:
        assert embeddings.sync_detailed(client=nobody, body=of_texts).status_code == 401
