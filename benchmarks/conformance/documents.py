"""PDF against Poppler and MuPDF, which draw with other rasterisers: the mean tells, edges differ."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from pypdf import PdfReader, PdfWriter

from benchmarks.conformance.probe import Pixels, Probe, pnm, run

SIZE = (306, 396)
"""Pixels at which pages are drawn: half a pixel a point of Letter."""


def probes(folder: Path) -> Iterator[Probe]:
    page = Image.new("RGB", (612, 792), "white")
    pen = ImageDraw.Draw(page)
    pen.rectangle((60, 60, 300, 200), fill=(200, 30, 30))
    pen.ellipse((200, 300, 500, 700), fill=(20, 120, 220))
    plain = BytesIO()
    page.save(plain, "PDF", resolution=72)
    drawing = folder / "drawing.pdf"
    drawing.write_bytes(_vector())
    (folder / "image.pdf").write_bytes(plain.getvalue())
    for name in ("drawing", "image"):
        path = folder / f"{name}.pdf"
        for viewer in ("pdftoppm", "mutool"):
            yield Probe(f"{name}", path, _drawn(path, viewer, SIZE), viewer, 1.5, size=SIZE)
        for turn in (90, 180, 270):
            turned = folder / f"{name}-{turn}.pdf"
            writer = PdfWriter(PdfReader(path))
            writer.pages[0].rotate(turn)
            writer.write(turned)
            size = SIZE[::-1] if turn % 180 else SIZE
            yield Probe(
                f"{name} turned by {turn}",
                turned,
                _drawn(turned, "pdftoppm", size, swapped=turn % 180 == 90),
                "pdftoppm",
                1.5,
                size=size,
            )
    cropped = folder / "cropped.pdf"
    writer = PdfWriter(PdfReader(drawing))
    writer.pages[0].cropbox.upper_right = (306, 396)
    writer.write(cropped)
    yield Probe("crop box", cropped, _drawn(cropped, "pdftoppm", SIZE, crop=True), "pdftoppm", 1.5, size=SIZE)
    packed = folder / "packed.pdf"
    writer = PdfWriter(PdfReader(drawing))
    for item in writer.pages:
        item.compress_content_streams()
    writer.write(packed)
    yield Probe("compressed content", packed, _drawn(packed, "mutool", SIZE), "mutool", 1.5, size=SIZE)
    unit = folder / "unit.pdf"
    unit.write_bytes(_vector("/UserUnit 2"))
    yield Probe("UserUnit 2 at 150 dpi", unit, _at_dpi(unit, 150), "mutool", 1.5)
    plain = folder / "drawing.pdf"
    yield Probe("drawing at 150 dpi", plain, _at_dpi(plain, 150), "mutool", 1.5)
    asian = folder / "asian.pdf"
    asian.write_bytes(_without_font())
    yield Probe("Chinese without a font", asian, _at_dpi(asian, 150), "mutool", 1.5)
    locked = folder / "locked.pdf"
    writer = PdfWriter(PdfReader(drawing))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(locked)
    yield Probe("needs a password", locked, _drawn(locked, "pdftoppm", SIZE), "pdftoppm", size=SIZE)


def _drawn(path: Path, viewer: str, size: tuple[int, int], crop: bool = False, swapped: bool = False) -> Any:
    def reference(folder: Path) -> Pixels:
        width, height = size
        if viewer == "pdftoppm":
            box = ["-cropbox"] if crop else []
            sides = size[::-1] if swapped else size  # of the page before it is turned
            scale = ["-scale-to-x", str(sides[0]), "-scale-to-y", str(sides[1])]
            run("pdftoppm", *box, *scale, "-f", "1", "-l", "1", "-singlefile", path, folder / "a")
            return pnm((folder / "a.ppm").read_bytes())
        run(
            "mutool",
            "draw",
            "-q",
            "-F",
            "ppm",
            "-w",
            str(width),
            "-h",
            str(height),
            "-f",
            "-o",
            folder / "a.ppm",
            path,
            "1",
        )
        return pnm((folder / "a.ppm").read_bytes())

    return reference


def _at_dpi(path: Path, dpi: int) -> Any:
    def reference(folder: Path) -> Pixels:
        run("mutool", "draw", "-q", "-F", "ppm", "-r", str(dpi), "-o", folder / "a.ppm", path, "1")
        return pnm((folder / "a.ppm").read_bytes())

    return reference


def _without_font() -> bytes:
    return _document(
        "BT /F 40 Tf 60 300 Td <53D1796862108BED> Tj ET",
        "",
        "<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts "
        "[<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light "
        "/CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 1 >> >>] >>",
    )


def _vector(page: str = "") -> bytes:
    content = (
        "1 0 0 rg 60 500 200 200 re f 0 0 1 rg 350 100 m 550 100 l 450 400 l f 0 g BT /F 40 Tf 60 300 Td (Sample) Tj ET"
    )
    return _document(content, page, "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")


def _document(content: str, page: str, font: str) -> bytes:
    resources = "/Resources << /Font << /F 5 0 R >> >>"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R {resources} {page} >>",
        f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        font,
    ]
    found, table = b"%PDF-1.4\n", b"xref\n0 6\n0000000000 65535 f \n"
    for number, body in enumerate(objects, 1):
        table += f"{len(found):010} 00000 n \n".encode("ascii")
        found += f"{number} 0 obj\n{body}\nendobj\n".encode("ascii")
    end = f"trailer << /Size 6 /Root 1 0 R >>\nstartxref\n{len(found)}\n%%EOF"
    return found + table + end.encode("ascii")
