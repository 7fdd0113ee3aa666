"""infinity's client against ``naflex-deploy serve``. infinity.py BUNDLE IMAGES"""

from __future__ import annotations

import asyncio
import base64
import sys
from pathlib import Path

import numpy as np
from infinity_client import AuthenticatedClient, Client
from infinity_client.api.default import embeddings
from infinity_client.models import EmbeddingEncodingFormat, OpenAIEmbeddingInputImage, OpenAIEmbeddingInputText
from serving import served

import naflex_deploy as nd

bundle, images = map(Path, sys.argv[1:])
files = sorted(path for path in images.iterdir() if path.suffix == ".png")
urls = ["data:image/png;base64," + base64.b64encode(path.read_bytes()).decode() for path in files]
engine = nd.load(bundle)
texts = ["a cat", "A photo of a DOG", "東京"]
pages, words = engine.embed(files), engine.text.embed(texts)
Path("keys").write_text("secret\n")
of_images = OpenAIEmbeddingInputImage(urls, model="towers")
of_texts = OpenAIEmbeddingInputText(texts, model="towers", encoding_format=EmbeddingEncodingFormat.FLOAT)


def close(answer: object, expected: np.ndarray) -> None:
    assert [entry.index for entry in answer.data] == list(range(len(expected)))
    found = [entry.embedding for entry in answer.data]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


async def side_by_side(client: Client) -> None:
    async with client as entered:
        of_pages, of_words = await asyncio.gather(
            embeddings.asyncio(client=entered, body=of_images), embeddings.asyncio(client=entered, body=of_texts)
        )
    close(of_pages, pages)
    close(of_words, words)


with served(f"towers={bundle}", "--api-keys", "keys") as events:
    url = events["ready"]["url"] + "/v1"
    with AuthenticatedClient(url, "secret") as client:
        answer = embeddings.sync(client=client, body=of_images)
        close(answer, pages)
        assert answer.usage.total_tokens > 0
        close(embeddings.sync(client=client, body=of_texts), words)
        bad = OpenAIEmbeddingInputImage(["https://example.org/a.png"], model="towers")
        assert embeddings.sync_detailed(client=client, body=bad).status_code == 422
    asyncio.run(side_by_side(AuthenticatedClient(url, "secret")))
    with Client(url) as nobody:
        assert embeddings.sync_detailed(client=nobody, body=of_texts).status_code == 401
