"""LangChain's vector store with our embeddings."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore

import naflex_deploy as nd
from naflex_deploy.adapters.langchain import NaflexEmbeddings

bundle, images = map(Path, sys.argv[1:])
engine = nd.load(bundle)
embeddings = NaflexEmbeddings(engine)
texts = ["a cat", "a dog", "of all the things"]
cosines = engine.text.embed(texts, normalize=True) @ engine.text.embed("a photo", normalize=True)

store = InMemoryVectorStore(embeddings)
store.add_texts(texts)
found = store.similarity_search_with_score("a photo", k=3)
order = np.argsort(-cosines)
assert [document.page_content for document, _ in found] == [texts[number] for number in order]
np.testing.assert_allclose([score for _, score in found], cosines[order], atol=1e-5)

files = [str(file) for file in sorted(images.glob("*.png"))]
np.testing.assert_allclose(embeddings.embed_image(files), engine.embed(files, normalize=True), atol=1e-6)
np.testing.assert_allclose(asyncio.run(embeddings.aembed_query("a cat")), embeddings.embed_query("a cat"))
assert np.shape(asyncio.run(embeddings.aembed_documents(texts))) == (3, len(embeddings.embed_query("x")))
with pytest.raises(nd.NaflexError, match=r"pages\.tiff: expected one image, found 2 frames"):
    embeddings.embed_image([files[0], str(images / "pages.tiff")])
