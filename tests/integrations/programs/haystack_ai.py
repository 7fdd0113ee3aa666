"""A pipeline of Haystack with our embedders, saved and read again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

import numpy as np
import pytest
from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.dataclasses import ByteStream
from haystack.document_stores.in_memory import InMemoryDocumentStore

import naflex_deploy as nd
from naflex_deploy.adapters.haystack import NaflexDocumentEmbedder, NaflexTextEmbedder

bundle, images = map(Path, sys.argv[1:])
engine = nd.load(bundle)
files = sorted(images.glob("*.png"))
documents = [
    *(Document(meta={"file_path": file.name}) for file in files[:3]),
    Document(blob=ByteStream(files[3].read_bytes())),
    Document(content="a cat"),
]
embedded = NaflexDocumentEmbedder(str(bundle), root_path=str(images)).run(documents=documents)["documents"]
expected = [*engine.embed(files, normalize=True), engine.text.embed("a cat", normalize=True)]
np.testing.assert_allclose([document.embedding for document in embedded], expected, atol=1e-5)
assert [document.id for document in embedded] == [document.id for document in documents]
assert all(document.embedding is None for document in documents)

store = InMemoryDocumentStore(embedding_similarity_function="cosine")
store.write_documents(embedded)
pipeline = Pipeline()
pipeline.add_component("embedder", NaflexTextEmbedder(str(bundle)))
saved = Pipeline.loads(pipeline.dumps(), allowed_modules=["naflex_deploy.adapters.haystack"])
assert saved.get_component("embedder").bundle == str(bundle)
saved.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=5))
saved.connect("embedder.embedding", "retriever.query_embedding")
found = saved.run({"embedder": {"text": "a dog"}})["retriever"]["documents"]
cosines = np.array(expected) @ engine.text.embed("a dog", normalize=True)
assert [hit.id for hit in found] == [documents[number].id for number in np.argsort(-cosines)]
np.testing.assert_allclose([hit.score for hit in found], sorted(cosines, reverse=True), atol=1e-4)

with pytest.raises(nd.NaflexError, match="neither"):
    NaflexDocumentEmbedder(str(bundle)).run(documents=[Document(meta={"x": 1})])
