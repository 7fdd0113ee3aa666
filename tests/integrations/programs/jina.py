"""The components with which Haystack asks Jina, against ``naflex-deploy serve``. jina.py BUNDLE IMAGES"""

from __future__ import annotations

import asyncio
import os

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

import pytest
from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.embedders.jina import (
    JinaDocumentEmbedder,
    JinaDocumentImageEmbedder,
    JinaTextEmbedder,
)
from towers import KEY, close, files, pages, texts, towers, words

with towers() as url:
    where = {"model": "towers", "base_url": f"{url}/v1/embeddings"}
    key = Secret.from_token(KEY)
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
