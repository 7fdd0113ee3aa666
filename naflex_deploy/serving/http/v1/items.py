"""What a request to /v1 holds: images, documents and texts, each with its place in the request."""

from __future__ import annotations

from dataclasses import dataclass

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PDF = b"%PDF-"
START = 1024
"""Bytes in which a PDF may begin."""


@dataclass(frozen=True, eq=False)
class Item:
    """One input of a request.

    Attributes:
        index: Its number in the request, from 0.
        place: Where it stands in the request, such as ``input[3]``.
        content: An encoded file; a text is a `str`.
        page: The only page of a document that is asked for, from 1.
        plain: Whether it is a text only because it does not look like an image, and nothing else says what it is.
    """

    index: int
    place: str
    content: bytes | str
    page: int | None = None
    plain: bool = False

    @property
    def is_document(self) -> bool:
        """Whether it may have several pages, each of which is answered."""
        content = self.content
        return isinstance(content, bytes) and (content.startswith(TIFF) or PDF in content[:START])
