"""An engine as embedders of Haystack. Needs ``pip install 'naflex-deploy[haystack]'``.

embedded = NaflexDocumentEmbedder("build/search").run([Document(meta={"file_path": "page.png"})])
query = NaflexTextEmbedder("build/search").run("an invoice")
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from naflex_deploy.adapters.engine import image_vectors, open_engine, text_vectors
from naflex_deploy.core.errors import UsageError, needs_extra
from naflex_deploy.runtime.packing.pack_stream import Image

with needs_extra("haystack"):
    from haystack import Document, component, default_from_dict, default_to_dict


@component
class NaflexTextEmbedder:
    """Embeds a query as a vector of length 1. The bundle is loaded by `warm_up`, or when it is first needed.

    Args:
        bundle: Directory of a bundle that was built with its text tower.
    """

    def __init__(self, bundle: str) -> None:
        self.bundle = str(bundle)
        self._engine = cache(partial(open_engine, bundle))

    def warm_up(self) -> None:
        """Load the bundle."""
        self._engine()

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """The vector of a text."""
        return {"embedding": text_vectors(self._engine(), [text])[0]}

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = default_to_dict(self, bundle=self.bundle)
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NaflexTextEmbedder:
        found: NaflexTextEmbedder = default_from_dict(cls, data)
        return found


@component
class NaflexDocumentEmbedder:
    """Embeds documents as vectors of length 1. The bundle is loaded by `warm_up`, or when it is first needed.

    What is embedded is the image in a document's ``blob``, else its text, else the image file that its meta names.

    Args:
        bundle: Directory of a bundle that was built with its text tower.
        file_path_meta_field: Key of the path in a document's meta.
        root_path: Directory that paths are relative to.
    """

    def __init__(self, bundle: str, file_path_meta_field: str = "file_path", root_path: str = "") -> None:
        self.bundle = str(bundle)
        self._engine = cache(partial(open_engine, bundle))
        self.file_path_meta_field = file_path_meta_field
        self.root_path = str(root_path)

    def warm_up(self) -> None:
        """Load the bundle."""
        self._engine()

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """The same documents, each with its vector in ``embedding``.

        Raises:
            UsageError: A document has neither an image nor a text.
        """
        found: list[list[float]] = [[]] * len(documents)
        images = {number: image for number, item in enumerate(documents) if (image := self._image(item)) is not None}
        texts = {number: self._text(item) for number, item in enumerate(documents) if number not in images}
        for numbers, vectors in (
            (images, image_vectors(self._engine(), images.values()) if images else []),
            (texts, text_vectors(self._engine(), list(texts.values())) if texts else []),
        ):
            for number, vector in zip(numbers, vectors, strict=True):
                found[number] = vector
        embedded = zip(documents, found, strict=True)
        return {"documents": [replace(document, embedding=vector) for document, vector in embedded]}

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = default_to_dict(
            self, bundle=self.bundle, file_path_meta_field=self.file_path_meta_field, root_path=self.root_path
        )
        return found

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NaflexDocumentEmbedder:
        found: NaflexDocumentEmbedder = default_from_dict(cls, data)
        return found

    def _image(self, document: Document) -> Image | None:
        if document.blob is not None:
            data: bytes = document.blob.data
            return data
        path = document.meta.get(self.file_path_meta_field)
        return Path(self.root_path, path) if path and document.content is None else None

    def _text(self, document: Document) -> str:
        if document.content is None:
            raise UsageError(
                f"document {document.id}: expected an image or a text, found neither",
                hint=f"name its file in meta['{self.file_path_meta_field}']",
            )
        return str(document.content)
