"""One bad input never ends a run, whatever its reader raises."""

from __future__ import annotations

import gzip
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

import naflex_deploy
from naflex_deploy.core.errors import ImageError, MissingExtraError, UsageError
from naflex_deploy.runtime.images.boundary import as_input_error
from naflex_deploy.runtime.images.inputs import open_inputs
from naflex_deploy.runtime.images.media import read
from tests.support.bundles import write_summing_bundle


def test_an_error_keeps_its_type_and_its_reason_on_one_line() -> None:
    missing = as_input_error("a.pdf", MissingExtraError("pypdfium2", "pdf"))
    assert missing.message == "a.pdf needs the Python module 'pypdfium2', which is not installed"
    error = as_input_error("a.png", KeyError("two\nlines"))
    assert isinstance(error, ImageError)
    assert error.message == r"a.png: cannot be read (KeyError: 'two\nlines')"
    assert as_input_error("a.png", MemoryError()).message == "a.png: cannot be read (MemoryError)"
    assert len(as_input_error("a.png", ValueError("x" * 10_000)).message) < 300
    ours = UsageError("said already")
    assert as_input_error("a.png", ours) is ours


@pytest.mark.parametrize(
    "error",
    [
        UnicodeDecodeError("utf-8", b"\xfc", 0, 1, "invalid start byte"),
        MemoryError(),
        RuntimeError("a library failed"),
        struct.error("unpack requires 4 bytes"),
        zlib.error("incorrect header check"),
        RecursionError(),
        NotImplementedError("this kind"),
        OSError(5, "Input/output error"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("after", [0, 2])
def test_whatever_a_reader_raises_is_the_error_of_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, after: int
) -> None:
    """And the frames before it are embedded."""
    for name in ("a", "odd", "z"):
        Image.fromarray(np.full((20, 30, 3), ord(name[0]), np.uint8)).save(tmp_path / f"{name}.png")
    pictures = read.read_pictures

    def failing(source: object, name: str, *arguments: object) -> Iterator[object]:
        if "odd" not in name:
            yield from pictures(source, name, *arguments)
            return
        frame = next(iter(pictures(source, name, *arguments)))
        for number in range(after):
            yield type(frame)(number, frame.picture)
        raise error

    monkeypatch.setattr(read, "read_pictures", failing)
    engine = naflex_deploy.load(write_summing_bundle(tmp_path / "bundle"))
    results = list(engine.stream(sorted(tmp_path.glob("*.png"))))
    failed = [result for result in results if result.error]
    assert [(result.input, result.frame) for result in failed] == [(1, after)]
    assert type(error).__name__ in str(failed[0].error)
    assert sorted(result.input for result in results if not result.error) == [0, *[1] * after, 2]


def test_a_cut_archive_is_one_error_wherever_it_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "cut.tar.gz"
    content = bytearray(gzip.compress(b"x" * 1000))
    content[3] = 8 | 4  # its header says that it has a name and an extra field
    for length in range(1, 30):
        path.write_bytes(content[:length])
        (item,) = open_inputs([path])
        assert isinstance(item.source, ImageError), length


def test_a_table_whose_column_names_are_no_text_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    parquet.write_table(pa.table({"image": [b"x"], "KKKK": [1]}), path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"KKKK", b"K\xfc\xffK"))
    items = list(open_inputs([path]))
    assert len(items) == 1
    assert isinstance(items[0].source, ImageError | bytes)


def clip_with_a_title_in_latin_1(path: Path) -> None:
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "Zeichnung Muenchen"
        stream = container.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes().replace(b"Muenchen", b"M\xfcnchen "))


def tiff_with_its_resolution_as_text(path: Path) -> None:
    Image.new("RGB", (8, 8)).save(path, dpi=(200, 200))
    content = bytearray(path.read_bytes())
    place = content.find(struct.pack("<HH", 282, 5))
    content[place + 2 : place + 12] = struct.pack("<HI", 2, 4) + b"abc\0"
    path.write_bytes(content)


@pytest.mark.parametrize("make", [clip_with_a_title_in_latin_1, tiff_with_its_resolution_as_text])
def test_odd_files_end_no_stream(tmp_path: Path, make: object) -> None:
    odd = tmp_path / ("odd.avi" if make is clip_with_a_title_in_latin_1 else "odd.tiff")
    make(odd)
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    shutil.copy(tmp_path / "a.png", tmp_path / "z.png")
    engine = naflex_deploy.load(write_summing_bundle(tmp_path / "bundle"))
    results = {result.input: result for result in engine.stream([tmp_path / "a.png", odd, tmp_path / "z.png"])}
    assert (results[0].error, results[2].error) == (None, None)
    assert results[1].error is None or isinstance(results[1].error, ImageError)
