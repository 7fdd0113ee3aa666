"""PDF documents written by hand, object by object."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from pypdf import PdfReader, PdfWriter

A4 = (595.28, 841.89)
"""Points."""


def pdf(contents: Sequence[str], size: tuple[float, float] = A4, *, page: str = "", catalog: str = "") -> bytes:
    """A document with a page for each content stream, Helvetica being font F.

    Args:
        contents: PDF operators; coordinates in points from the lower left.
        size: (width, height) of the pages in points.
        page, catalog: Further entries of each page's dictionary and of the catalog's.
    """
    kids = " ".join(f"{4 + 2 * index} 0 R" for index in range(len(contents)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for index, content in enumerate(contents):
        box = f"/MediaBox [0 0 {size[0]} {size[1]}] /Resources << /Font << /F 3 0 R >> >>"
        objects.append(f"<< /Type /Page /Parent 2 0 R {box} /Contents {5 + 2 * index} 0 R {page} >>")
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    return written(objects)


def written(objects: Sequence[str]) -> bytes:
    """The objects, numbered from 1, with the table that finds them; the first is the catalog."""
    content = b"%PDF-1.7\n"
    places = []
    for number, body in enumerate(objects, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    count = len(objects) + 1
    end = f"xref\n0 {count}\n0000000000 65535 f \n{table}trailer << /Size {count} /Root 1 0 R >>\nstartxref\n"
    return content + f"{end}{len(content)}\n%%EOF".encode()


def text(words: str, points: float, at: tuple[float, float]) -> str:
    """Operators that write words."""
    return f"BT /F {points} Tf {at[0]} {at[1]} Td ({words}) Tj ET"


def rectangle(left: float, bottom: float, width: float, height: float) -> str:
    """Operators that fill a black rectangle."""
    return f"0 g {left} {bottom} {width} {height} re f"


def encrypted(content: bytes) -> bytes:
    """The same document, which opens with a password."""
    writer = PdfWriter(PdfReader(BytesIO(content)))
    writer.encrypt("secret", algorithm="RC4-128")
    stream = BytesIO()
    writer.write(stream)
    return stream.getvalue()
