"""LlamaIndex's index and retriever with our embedding."""

from __future__ import annotations

import asyncio
import sys
from io import BytesIO
from pathlib import Path

import numpy as np

sys.path.pop(0)  # of this file, whose name is that of the library

from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

import naflex_deploy as nd
from naflex_deploy.adapters.llama_index import NaflexEmbedding

bundle, images = map(Path, sys.argv[1:])
engine = nd.load(bundle)
embedding = NaflexEmbedding(engine, embed_batch_size=2)
texts = ["a cat", "a dog", "of all the things"]
cosines = engine.text.embed(texts, normalize=True) @ engine.text.embed("a photo", normalize=True)

index = VectorStoreIndex([TextNode(text=text) for text in texts], embed_model=embedding)
found = index.as_retriever(similarity_top_k=3).retrieve("a photo")
order = np.argsort(-cosines)
assert [hit.node.get_content() for hit in found] == [texts[number] for number in order]
np.testing.assert_allclose([hit.score for hit in found], cosines[order], atol=1e-5)

files = [str(file) for file in sorted(images.glob("*.png"))]
expected = engine.embed(files, normalize=True)
np.testing.assert_allclose(embedding.get_image_embedding_batch(files), expected, atol=1e-5)
np.testing.assert_allclose(asyncio.run(embedding.aget_image_embedding_batch(files)), expected, atol=1e-5)
stream = BytesIO(Path(files[0]).read_bytes())
np.testing.assert_allclose(embedding.get_image_embedding(stream), expected[0], atol=1e-5)
np.testing.assert_allclose(asyncio.run(embedding.aget_query_embedding("a cat")), embedding.get_query_embedding("a cat"))
assert embedding.to_dict()["model_name"] == engine.manifest.model.source
