"""Pages of PDF documents, drawn by PDFium at the size at which they are wanted."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from naflex_deploy.core.errors import ImageError, needs_extra
from naflex_deploy.core.profile import ImageSection
from naflex_deploy.runtime.images.media.frame import Decision, Frame
from naflex_deploy.runtime.images.media.pdf_fonts import contains, named_scripts, searchable, undrawn_script
from naflex_deploy.runtime.images.source import check_size

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

POINTS = 72
"""Of a page, per inch."""

_LEAST = 4
"""Bytes by which a document names a page."""

_USER_UNIT = re.compile(rb"/UserUnit")

_ONE_AT_A_TIME = threading.RLock()
"""PDFium keeps its state in globals. Reentrant, as the garbage collector may close a document anywhere."""


@dataclass(frozen=True, eq=False)
class Page:
    """A page that is drawn when its size is known.

    Attributes:
        document: To which it belongs.
        number: Which page of it, from 0.
        size: (width, height) in pixels at the density of the profile.
        name: Of the document in messages.
        max_pixels: The most that may be drawn at once.
    """

    document: PdfDocument
    number: int
    size: tuple[int, int]
    name: str
    max_pixels: int

    def resize(self, size: tuple[int, int], resample: Resampling) -> Image.Image:
        """Draw it on white, form fields filled in, at (width, height) ``size``. Nothing is resampled.

        Raises:
            ImageError: It is damaged, or would have more pixels than the profile allows.
        """
        from pypdfium2 import PdfBitmap, raw

        name = f"{self.name}, page {self.number + 1}"
        check_size(*size, name, self.max_pixels)
        with _ONE_AT_A_TIME, _damage(name):
            page = self.document[self.number]
            bitmap = PdfBitmap.new_native(*size, raw.FPDFBitmap_BGR, rev_byteorder=True)
            bitmap.fill_rect((255, 255, 255, 255), 0, 0, *size)
            place = (bitmap, page, 0, 0, *size, 0, raw.FPDF_ANNOT | raw.FPDF_REVERSE_BYTE_ORDER)
            raw.FPDF_RenderPageBitmap(*place)
            if self.document.formenv:
                raw.FPDF_FFLDraw(self.document.formenv, *place)
            pixels = np.array(bitmap.to_numpy())
            bitmap.close()
            page.close()
        return Image.fromarray(pixels)


def read_pdf(source: Path | bytes, *, name: str, image: ImageSection, done: Collection[int] = ()) -> Iterator[Frame]:
    """The pages of a document. One that is damaged is a frame with an error.

    Args:
        source: Path, or content.
        name: In messages.
        image: Of the profile: the density at which pages are drawn, and the most pixels of one.
        done: Numbers of pages that are left out.

    Raises:
        ImageError: It needs a password, is damaged, or has no pages.
        MissingExtraError: pypdfium2 is not installed.
    """
    document = _open(source, name)
    try:
        with _ONE_AT_A_TIME:
            count = len(document)
        content = source if isinstance(source, bytes) else source.read_bytes()
        parts = searchable(content)
        if count * _LEAST > sum(map(len, parts)):
            raise ImageError(f"{name}: damaged PDF: it claims {count} pages", hint="replace the file")
        units = _user_units(content, count) if contains(parts, _USER_UNIT) else {}
        scripts = named_scripts(parts)
        del content, parts
        for number in range(count):
            if number not in done:
                yield _frame(document, number, count, name, image, units.get(number, 1.0), scripts)
    finally:
        with _ONE_AT_A_TIME:
            document.close()


def _user_units(content: bytes, count: int) -> dict[int, float]:
    """By how much each page is larger than its points say (PDF 32000-1, 14.11.1), where it is: PDFium ignores it.

    Only large drawings have it, so pypdf reads the page tree only where the key occurs.
    """
    with needs_extra("pdf"):
        from pypdf import PdfReader
    try:
        pages = PdfReader(BytesIO(content)).pages
        found = {number: float(pages[number].user_unit) for number in range(min(count, len(pages)))}
    except Exception:
        return {}  # PDFium repairs more than pypdf reads; the page keeps the size in points
    return {number: unit for number, unit in found.items() if unit > 0 and unit != 1}


def _frame(
    document: PdfDocument, number: int, count: int, name: str, image: ImageSection, unit: float, scripts: Sequence[str]
) -> Frame:
    last = number == count - 1
    try:
        page_name = f"{name}, page {number + 1}"
        with _ONE_AT_A_TIME, _damage(page_name):
            width, height = document.get_page_size(number)
            script = undrawn_script(document, number, scripts) if scripts else None
        if script is not None:
            raise ImageError(
                f"{page_name}: its text in {script} has no embedded font, and no font of this machine draws it",
                hint="install a font of that script, such as the package fonts-noto-cjk, or embed fonts in the PDF",
            )
        width, height = (round(side * unit * image.dpi / POINTS) for side in (width, height))
        if width < 1 or height < 1:
            raise ImageError(f"{page_name}: expected at least 1x1 pixels, found {width}x{height}", hint="leave it out")
        told = (Decision("level", f"drawn at {unit:g} times its points: UserUnit"),) if unit != 1 else ()
        page = Page(document, number, (width, height), name, image.max_pixels)
        return Frame(number, page, dpi=image.dpi, last=last, decisions=told)
    except ImageError as error:
        return Frame(number, last=last, error=error)


def _open(source: Path | bytes, name: str) -> PdfDocument:
    """Not by `PdfDocument` itself, which takes an error of an earlier document for that of one without pages."""
    with needs_extra("pdf"):
        from pypdfium2 import PdfDocument, raw
    with _ONE_AT_A_TIME:
        if isinstance(source, bytes):
            handle = raw.FPDF_LoadMemDocument64(source, len(source), None)
        else:
            handle = raw.FPDF_LoadDocument(os.fsencode(source), None)
        if not handle:
            raise _refusal(raw.FPDF_GetLastError(), name)
        document = PdfDocument(handle)
        if not len(document):
            document.close()
            raise ImageError(f"{name}: expected pages, found a PDF without any", hint="leave it out")
        document.init_forms()
        return document


def _refusal(code: int, name: str) -> ImageError:
    from pypdfium2 import raw

    if code == raw.FPDF_ERR_PASSWORD:
        return ImageError(f"{name}: the PDF needs a password", hint="save it without one")
    if code == raw.FPDF_ERR_FILE:
        return ImageError(f"{name}: cannot be opened", hint="check its name and permissions")
    return ImageError(f"{name}: damaged PDF", hint="replace the file")


@contextmanager
def _damage(name: str) -> Iterator[None]:
    from pypdfium2 import PdfiumError

    try:
        yield
    except PdfiumError:
        raise ImageError(f"{name}: damaged", hint="replace the file") from None
