"""An engine as a multi-modal embedding of LlamaIndex. Needs ``pip install 'naflex-deploy[llama-index]'``.

index = VectorStoreIndex(nodes, embed_model=NaflexEmbedding("build/search"))
"""

from __future__ import annotations

import asyncio
from io import BytesIO
from os import PathLike
from typing import Any

from naflex_deploy.adapters.engine import image_vectors, open_engine, text_vectors
from naflex_deploy.core.errors import needs_extra
from naflex_deploy.runtime.engine import Engine

with needs_extra("llama-index"):
    from llama_index.core.base.embeddings.base import Embedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.embeddings import MultiModalEmbedding


class NaflexEmbedding(MultiModalEmbedding):
    """Embeds texts and images as vectors of length 1 in one space.

    Args:
        engine: An engine, or the directory of a bundle; one that was built with its text tower.
        options: Fields of LlamaIndex's embeddings, such as ``embed_batch_size``.
    """

    _engine: Engine = PrivateAttr()

    def __init__(self, engine: Engine | str | PathLike[str], **options: Any) -> None:
        opened = open_engine(engine)
        super().__init__(**{"model_name": opened.manifest.model.source} | options)
        self._engine = opened

    @classmethod
    def class_name(cls) -> str:
        return "NaflexEmbedding"

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return text_vectors(self._engine, texts)

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return await asyncio.to_thread(self._get_query_embedding, query)

    def _get_image_embedding(self, img_file_path: str | BytesIO) -> Embedding:
        return self._get_image_embeddings([img_file_path])[0]

    def _get_image_embeddings(self, img_file_paths: list[str | BytesIO]) -> list[Embedding]:
        return image_vectors(self._engine, img_file_paths)

    async def _aget_image_embedding(self, img_file_path: str | BytesIO) -> Embedding:
        return await asyncio.to_thread(self._get_image_embedding, img_file_path)
