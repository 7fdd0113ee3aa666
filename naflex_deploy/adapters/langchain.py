"""An engine as embeddings of LangChain. Needs ``pip install 'naflex-deploy[langchain]'``.

store = InMemoryVectorStore(NaflexEmbeddings("build/search"))
"""

from __future__ import annotations

from os import PathLike

from naflex_deploy.adapters.engine import image_vectors, open_engine, text_vectors
from naflex_deploy.core.errors import needs_extra
from naflex_deploy.runtime.engine import Engine

with needs_extra("langchain"):
    from langchain_core.embeddings import Embeddings


class NaflexEmbeddings(Embeddings):
    """Embeds texts and images as vectors of length 1 in one space.

    Args:
        engine: An engine, or the directory of a bundle; one that was built with its text tower.
    """

    def __init__(self, engine: Engine | str | PathLike[str]) -> None:
        self.engine = open_engine(engine)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """One vector per text."""
        return text_vectors(self.engine, texts)

    def embed_query(self, text: str) -> list[float]:
        """The vector of a text."""
        return text_vectors(self.engine, [text])[0]

    def embed_image(self, uris: list[str]) -> list[list[float]]:
        """One vector per image file, under the name by which vector stores of LangChain call it."""
        return image_vectors(self.engine, uris)
