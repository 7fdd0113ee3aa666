"""SentenceTransformer's own tools with our encoder, and our encoder beside SentenceTransformer."""

from __future__ import annotations

import inspect
import itertools
import sys
from pathlib import Path

sys.path.pop(0)  # of this file, whose name is that of the library

import tests.support.imports  # noqa: F401, I001  # makes torchvision importable beside any build of torch
import numpy as np
import torch
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models

from naflex_deploy.adapters.sentence_transformers import SentenceEncoder

bundle, images = map(Path, sys.argv[1:])
encoder = SentenceEncoder(bundle)
files = sorted(images.glob("*.png"))
texts = ["a cat", "a dog", "of all the things"]

ours, theirs = (inspect.signature(kind.encode).parameters for kind in (SentenceEncoder, SentenceTransformer))
assert list(ours) == [name for name in theirs if name != "kwargs"], (list(ours), list(theirs))
for name in ours:
    assert ours[name].default == theirs[name].default, name

words = Tokenizer(models.WordLevel({"a": 0, "cat": 1, "dog": 2, "[UNK]": 3}, unk_token="[UNK]"))
original = SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=8)])
for inputs, as_numpy, as_tensor in itertools.product(("a cat", texts), (True, False), (True, False)):
    found, expected = (
        model.encode(inputs, convert_to_numpy=as_numpy, convert_to_tensor=as_tensor) for model in (encoder, original)
    )
    assert type(found) is type(expected), (inputs, as_numpy, as_tensor, type(found), type(expected))
    assert np.ndim(found) == np.ndim(expected) if as_numpy else len(found) >= 1
    if isinstance(found, list):
        assert type(found[0]) is type(expected[0])

vectors = encoder.encode(texts)
pictures = encoder.encode(files)
unit = util.normalize_embeddings(torch.from_numpy(vectors))
mixed = encoder.encode([str(files[0]), texts[0], {"text": texts[1]}])
pairwise = util.pairwise_cos_sim(vectors, pictures[:3])
np.testing.assert_allclose(encoder.encode(texts, normalize_embeddings=True), unit, atol=1e-6)
np.testing.assert_allclose(encoder.similarity(vectors, pictures), util.cos_sim(vectors, pictures), atol=1e-5)
np.testing.assert_allclose(encoder.similarity_pairwise(vectors, pictures[:3]), pairwise, atol=1e-5)
np.testing.assert_allclose(mixed, [pictures[0], vectors[0], vectors[1]], rtol=1e-4, atol=1e-5)

asked, corpus = (encoder.encode(inputs, convert_to_tensor=True) for inputs in (texts, files))
hits = util.semantic_search(asked, corpus)
best = [found[0]["corpus_id"] for found in hits]
assert best == encoder.similarity(vectors, pictures).argmax(1).tolist()

evaluate = InformationRetrievalEvaluator(
    queries={str(number): text for number, text in enumerate(texts)},
    corpus={str(number): str(file) for number, file in enumerate(files)},
    relevant_docs={str(number): {str(hit)} for number, hit in enumerate(best)},
    write_csv=False,
)
assert evaluate(encoder)["cosine_accuracy@1"] == 1.0
