"""Pages of real PDF documents: their sizes against pypdf, and their drawings against known coordinates."""

from __future__ import annotations

import pickle
import re
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL.Image import Resampling
from pypdf import PdfReader

from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError, MissingExtraError
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.images.media import pdf_fonts
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.pdf_fonts import contains, missing_scripts, searchable
from naflex_deploy.runtime.images.media.read import read_frames
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.packing.prepared import Prepared
from tests.support.pdfs import encrypted, pdf, rectangle, text, written


def profile(*settings: str) -> Profile:
    return resolve("photo", settings=settings, environment={}).profile


def pages(content: bytes | Path, *settings: str, done: tuple[int, ...] = ()) -> list[Frame]:
    return list(read_frames(content, name="a.pdf", profile=profile(*settings), done=done))


def drawn(content: bytes, size: tuple[int, int]) -> list[np.ndarray]:
    """Its pages at a size."""
    found = []
    for frame in read_frames(content, name="a.pdf", profile=profile()):
        assert frame.picture is not None
        found.append(np.asarray(frame.picture.resize(size, Resampling.BILINEAR)))
    return found


def prepared(content: bytes, *settings: str) -> list[list[Prepared]]:
    model = Preprocessing(patch_size=16)
    return list(Preparer(model, profile(*settings), "onnxruntime")(0, content))


def pixels(image: Prepared) -> np.ndarray:
    """[H, W, 3] from the patches that the model gets."""
    assert image.patches is not None
    h, w = image.patches.grid_hw
    return image.patches.pixels.reshape(h, w, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(16 * h, 16 * w, 3)


@pytest.mark.parametrize("size", [(600, 800), (300, 800), (61, 47)])
def test_a_page_is_drawn_at_exactly_the_size_asked_for(size: tuple[int, int]) -> None:
    (found,) = drawn(pdf([rectangle(150, 200, 300, 400)], (600, 800)), size)
    assert found.shape == (size[1], size[0], 3)
    rows, columns = (np.flatnonzero(found[..., 0].min(axis) < 128) for axis in (1, 0))
    for places, side in ((rows, size[1]), (columns, size[0])):
        assert places[0] == pytest.approx(side / 4, abs=1)
        assert places[-1] + 1 == pytest.approx(side * 3 / 4, abs=1)
    assert found[size[1] // 2, size[0] // 2].tolist() == [0, 0, 0]
    assert found[0, 0].tolist() == [255, 255, 255]


def test_colours_are_red_green_blue() -> None:
    (found,) = drawn(pdf(["1 0 0 rg 0 0 600 800 re f"], (600, 800)), (60, 80))
    assert found[5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_sizes_are_those_of_the_pages_as_shown(turn: int) -> None:
    content = pdf(["", ""], page=f"/Rotate {turn}")
    for shown, page in zip(PdfReader(BytesIO(content)).pages, pages(content, "image.dpi=200"), strict=True):
        width, height = (float(side) * 200 / 72 for side in (shown.mediabox.width, shown.mediabox.height))
        assert page.picture is not None
        assert page.picture.size == pytest.approx((height, width) if turn % 180 else (width, height), abs=0.51)
        assert page.dpi == 200


def test_form_fields_are_drawn_as_filled_in() -> None:
    look = "<< /Type /XObject /Subtype /Form /BBox [0 0 100 50] /Length 20 >>\nstream\n0 g 0 0 100 50 re f \nendstream"
    widget = "<< /Type /Annot /Subtype /Widget /FT /Tx /T (a) /V (b) /F 4 /Rect [50 50 150 100] /AP << /N 5 0 R >> >>"
    content = written(
        [
            "<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [4 0 R] >> >>",
            "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Annots [4 0 R] >>",
            widget,
            look,
        ]
    )
    (found,) = drawn(content, (200, 200))
    assert found[125, 100].tolist() == [0, 0, 0]
    assert found[20, 100].tolist() == [255, 255, 255]


def test_text_of_8_points_is_readable_in_tiles() -> None:
    """Heights of the letters x and H, counted in the pixels that the model gets."""
    (images,) = prepared(
        pdf([text("x", 8, (100, 500)) + " " + text("H", 8, (100, 300))]),
        "image.tokens=1024",
        "image.fit=tiles",
        "engine.onnxruntime.budgets=[1024]",
    )

    def heights(image: Prepared) -> list[int]:
        rows = pixels(image)[..., 0].min(1) < 128
        return [
            len(run) for run in np.split(np.flatnonzero(rows), np.flatnonzero(np.diff(np.flatnonzero(rows)) > 1) + 1)
        ]

    whole, *tiles = images
    assert len(tiles) == 10
    found = [height for tile in tiles for height in heights(tile) if height]
    assert min(found) >= 7, "of every tile that a letter is in"
    assert max(found) >= 11
    assert all(height < 7 for height in heights(whole))


def test_pages_that_are_done_are_not_drawn_and_the_last_is_known() -> None:
    content = pdf([rectangle(0, 0, 600, 100 * number) for number in range(5)])
    assert [(page.number, page.last) for page in pages(content)] == [(n, n == 4) for n in range(5)]
    assert [(page.number, page.last) for page in pages(content, done=(0, 3))] == [(1, False), (2, False), (4, True)]


def test_documents_are_drawn_from_several_threads() -> None:
    content = pdf([rectangle(0, 0, 600, 100 * number) for number in range(6)])
    expected = drawn(content, (60, 80))
    assert [int((page[..., 0] == 0).mean() * 8 + 0.5) for page in expected] == [0, 1, 2, 3, 4, 5]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: drawn(content, (60, 80)), range(12)):
            assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))


def test_bad_documents_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    good = pdf([text("secret words", 12, (50, 50))])
    for content, message in (
        (pdf([]), "found a PDF without any"),
        (encrypted(good), "the PDF needs a password"),
        (b"%PDF-1.7\n" + b"x" * 2000, "damaged PDF"),
        (good[:200], "damaged PDF"),
        (pdf([]), "found a PDF without any"),
        (pdf([""], (0.1, 800)), "expected at least 1x1 pixels"),
    ):
        (frame,) = pages(content)
        assert isinstance(frame.error, ImageError), message
        assert message in frame.error.message
        assert frame.error.message.startswith("a.pdf")
        assert "\n" not in str(frame.error)
    (frame,) = pages(tmp_path / "missing.pdf")
    assert isinstance(frame.error, ImageError)


def test_a_page_that_cannot_be_read_loses_no_other() -> None:
    good = pdf([rectangle(0, 0, 600, 400)] * 3)
    content = good.replace(b"/Kids [4 0 R 6 0 R 8 0 R]", b"/Kids [4 0 R 9 0 R 8 0 R]")
    assert content != good
    frames = prepared(content)
    errors = [frame[0].result.error for frame in frames]
    assert [error is None for error in errors] == [True, False, True]
    assert isinstance(errors[1], ImageError)
    assert "page 2: damaged" in str(errors[1])


def test_a_page_of_10_metres_by_1_centimetre_is_tiled_along_its_length() -> None:
    strip = pdf([text("end", 8, (28_300, 10))], (28_346, 28.35))
    (images,) = prepared(strip, "image.tokens=1024", "image.fit=tiles", "engine.onnxruntime.budgets=[1024]")
    assert len(images) == 16
    assert pixels(images[-1]).min() < 128
    assert all(pixels(image).min() == 255 for image in images[1:-1])
    (refused,) = prepared(strip, "image.fit=tiles", "image.tokens=16", "image.overlap=1")
    assert "expected at most 64 tiles" in str(refused[0].result.error)


def test_without_the_extra_the_document_alone_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    (page,) = read_frames(pdf([""]), name="a.pdf", profile=profile())
    assert isinstance(page.error, MissingExtraError)
    assert "pip install 'naflex-deploy[pdf]'" in page.error.hint
    assert "naflex-deploy[pdf]" in pickle.loads(pickle.dumps(page.error)).hint  # another process reads the document


def test_the_limit_is_on_what_is_drawn() -> None:
    """A plan of A0 has more pixels at 150 dots per inch than may be drawn at once; at 256 tokens it has few."""
    plan = pdf([rectangle(100, 100, 500, 500)], (2384 * 3, 3370 * 3))
    ((image,),) = prepared(plan)
    assert image.result.error is None
    ((image,),) = prepared(plan, "image.max_pixels=1000")
    assert "expected at most 1000 pixels" in str(image.result.error)


def test_user_units_enlarge_a_page() -> None:
    """A plan of 10 m states its size in units of several points (PDF 32000-1, 14.11.1)."""
    content = pdf(["", ""], (600, 800), page="/UserUnit 2.5")
    for page in pages(content):
        assert page.picture is not None
        assert page.picture.size == (round(600 * 2.5 * 150 / 72), round(800 * 2.5 * 150 / 72))
        assert page.dpi == 150
        assert "UserUnit" in page.decisions[0].value
    assert not pages(pdf([""], (600, 800)))[0].decisions


def without_fonts(encoding: str, font: str, ordering: str, codes: str) -> bytes:
    drawing = f"BT /F 40 Tf 4 8 Td <{codes}> Tj ET"
    system = f"/CIDSystemInfo << /Registry (Adobe) /Ordering ({ordering}) /Supplement 1 >>"
    return written(
        [
            "<< /Type /Catalog /Pages 2 0 R >>",
            "<< /Type /Pages /Kids [3 0 R 8 0 R] /Count 2 >>",
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 90 50] /Contents 4 0 R "
            "/Resources << /Font << /F 5 0 R >> >> >>",
            f"<< /Length {len(drawing)} >>\nstream\n{drawing}\nendstream",
            f"<< /Type /Font /Subtype /Type0 /BaseFont /{font} /Encoding /{encoding} /DescendantFonts [6 0 R] >>",
            f"<< /Type /Font /Subtype /CIDFontType0 /BaseFont /{font} {system} /FontDescriptor 7 0 R >>",
            f"<< /Type /FontDescriptor /FontName /{font} /Flags 6 /FontBBox [0 -120 1000 880] /ItalicAngle 0 "
            "/Ascent 880 /Descent -120 /CapHeight 700 /StemV 90 >>",
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 90 50] >>",
        ]
    )


@pytest.mark.parametrize(
    ("script", "document"),
    [
        ("Japanese", without_fonts("UniJIS-UCS2-H", "HeiseiMin-W3", "Japan1", "306E")),
        ("Chinese", without_fonts("UniGB-UCS2-H", "STSong-Light", "GB1", "53D1")),
        ("Korean", without_fonts("UniKS-UCS2-H", "HYSMyeongJo-Medium", "Korea1", "C1A1")),
    ],
)
def test_text_that_no_font_here_draws_is_no_blank_page(
    script: str, document: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pages(document)
    assert second.error is None, "a page without such text is unharmed"
    if script in missing_scripts():
        assert isinstance(first.error, ImageError)
        assert f"text in {script} has no embedded font" in first.error.message
    else:
        assert drawn(document, (90, 50))[0].min() < 128
    monkeypatch.setattr(pdf_fonts, "_draws", lambda script: False)
    assert isinstance(pages(document)[0].error, ImageError)
    monkeypatch.setattr(pdf_fonts, "_draws", lambda script: True)
    assert pages(document)[0].error is None


def test_objects_in_compressed_streams_are_looked_at_too() -> None:
    hidden = b"1 0 obj << /Type /ObjStm /N 1 /First 4 >>\nstream\r\n" + zlib.compress(b"1 0 << /UserUnit 2 >>")
    assert contains(searchable(hidden), re.compile(rb"/UserUnit"))
    assert not contains(searchable(hidden), re.compile(rb"/UniJIS"))
    assert not contains(searchable(hidden[:-5] + b"/ObjStm >> stream\n no stream"), re.compile(rb"/UniJIS"))


def test_a_page_tree_that_loops_claims_no_million_pages() -> None:
    """PDFium believes its count."""
    tree = "<< /Type /Pages /Kids [{} 0 R] /Count {} >>"
    for count, errors in ((2, 2), (1_000_000, 1)):
        bodies = ["<< /Type /Catalog /Pages 2 0 R >>", tree.format(3, count), tree.format(2, count)]
        objects = "".join(f"{number} 0 obj\n{body}\nendobj\n" for number, body in enumerate(bodies, 1))
        content = f"%PDF-1.4\n{objects}trailer << /Size 4 /Root 1 0 R >>\n%%EOF".encode("ascii")
        found = list(read_frames(content, name="a.pdf", profile=resolve("photo", environment={}).profile))
        assert len(found) == errors
        assert all(frame.error is not None and "damaged" in frame.error.message for frame in found)
