"""Chinese, Japanese and Korean text without embedded fonts: PDFium leaves it blank where the machine has none."""

from __future__ import annotations

import ctypes
import re
import zlib
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

_CHARACTERS = {
    "Japanese": ("Japan1", "HeiseiMin-W3", "UniJIS-UCS2-H", "8ACB"),
    "Chinese": ("GB1", "STSong-Light", "UniGB-UCS2-H", "53D1"),
    "Korean": ("Korea1", "HYSMyeongJo-Medium", "UniKS-UCS2-H", "C1A1"),
}
"""Of each script: its character collection, a font that Adobe defined, a CMap, and a character."""

_MARKS = {
    "Japanese": re.compile(rb"/UniJIS|-RKSJ-|/EUC-[HV]|\(Japan1\)|\(Adobe-Japan1"),
    "Chinese": re.compile(rb"/UniGB|/UniCNS|/GBK|/GBpc|/ETen|/B5pc|/CNS|\((GB1|CNS1)\)"),
    "Korean": re.compile(rb"/UniKS|/KSC|\((Korea1|KR)\)"),
}
"""Names of encodings and character collections, which every document in these scripts without fonts has."""

_OBJECT_STREAM = re.compile(rb"/ObjStm.{0,400}?stream\r?\n", re.DOTALL)
_MOST = 1 << 26
"""Bytes of one object stream once decompressed."""


def searchable(content: bytes) -> list[bytes]:
    """The bytes of a PDF and those of its object streams decompressed, in which names of its objects are found."""
    found = [content]
    for stream in _OBJECT_STREAM.finditer(content):
        try:
            found.append(zlib.decompressobj().decompress(content[stream.end() : stream.end() + _MOST], _MOST))
        except zlib.error:
            continue
    return found


def contains(parts: Sequence[bytes], pattern: re.Pattern[bytes]) -> bool:
    return any(pattern.search(part) for part in parts)


def named_scripts(parts: Sequence[bytes]) -> tuple[str, ...]:
    """The scripts whose encodings a PDF names: most PDFs name none, and need no look."""
    return tuple(script for script, marks in _MARKS.items() if contains(parts, marks))


def missing_scripts() -> list[str]:
    """The scripts that PDFium cannot draw on this machine without an embedded font."""
    return [script for script in _CHARACTERS if not _draws(script)]


def undrawn_script(document: PdfDocument, number: int, scripts: Sequence[str]) -> str | None:
    """The script of a page's text that would be left blank here, ``None`` where there is none.

    Args:
        document: The document.
        number: Which page, from 0.
        scripts: Those that the document names. PDFium finds no characters in text that it cannot draw, so such text
            is of one of them.
    """
    from pypdfium2 import raw

    page = document[number]
    text = page.get_textpage()
    try:
        for item in page.get_objects(filter=[raw.FPDF_PAGEOBJ_TEXT]):
            font = raw.FPDFTextObj_GetFont(item.raw)
            if not font or raw.FPDFFont_GetIsEmbedded(font):
                continue
            words = _text_of(item, text)
            found = _script_of(words)
            candidates = [found] if found else ([] if words.strip() else scripts)
            for script in candidates:
                if not _draws(script):
                    return script
        return None
    finally:
        text.close()
        page.close()


def _text_of(item: Any, text: Any) -> str:
    from pypdfium2 import raw

    size = raw.FPDFTextObj_GetText(item.raw, text.raw, None, 0)
    buffer = ctypes.create_string_buffer(size)
    raw.FPDFTextObj_GetText(item.raw, text.raw, ctypes.cast(buffer, ctypes.POINTER(ctypes.c_ushort)), size)
    return buffer.raw.decode("utf-16-le", "replace").rstrip("\0")


def _script_of(text: str) -> str | None:
    """Kana are Japanese and Hangul is Korean; ideographs alone count as Chinese."""
    if re.search("[\u3040-\u30ff]", text):
        return "Japanese"
    if re.search("[\u1100-\u11ff\uac00-\ud7af]", text):
        return "Korean"
    return "Chinese" if re.search("[\u3400-\u9fff\uf900-\ufaff]", text) else None


@cache
def _draws(script: str) -> bool:
    """Whether a character of a font that is not embedded leaves a trace."""
    from pypdfium2 import PdfDocument

    collection, font, encoding, character = _CHARACTERS[script]
    drawing = f"BT /F 40 Tf 4 8 Td <{character}> Tj ET"
    system = f"/CIDSystemInfo << /Registry (Adobe) /Ordering ({collection}) /Supplement 1 >>"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 50 50] /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>",
        f"<< /Length {len(drawing)} >>\nstream\n{drawing}\nendstream",
        f"<< /Type /Font /Subtype /Type0 /BaseFont /{font} /Encoding /{encoding} /DescendantFonts [6 0 R] >>",
        f"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /{font} {system} /FontDescriptor 7 0 R >>",
        f"<< /Type /FontDescriptor /FontName /{font} /Flags 6 /FontBBox [0 -120 1000 880] /ItalicAngle 0 "
        "/Ascent 880 /Descent -120 /CapHeight 700 /StemV 90 >>",
    ]
    content = b"%PDF-1.4\n"
    for number, body in enumerate(objects, 1):
        content += f"{number} 0 obj\n{body}\nendobj\n".encode("ascii")
    document = PdfDocument(content + b"trailer << /Size 8 /Root 1 0 R >>\n%%EOF")
    page = document[0]
    bitmap = page.render()
    drawn = bool((np.asarray(bitmap.to_numpy()) < 128).any())
    bitmap.close()
    page.close()
    document.close()
    return drawn
