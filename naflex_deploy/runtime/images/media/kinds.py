"""What an input is, told once by its first bytes: limits and readers both act on that decision."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from naflex_deploy.runtime.images.media.dicom.reader import is_dicom
from naflex_deploy.runtime.images.media.recording import is_recording
from naflex_deploy.runtime.images.media.slide import is_slide
from naflex_deploy.runtime.images.media.video import is_motion_jpeg
from naflex_deploy.runtime.images.media.volume import is_volume

Kind = Literal["PDF document", "DICOM file", "volume", "recording", "slide", "video", "picture"]
"""A picture is whatever is none of the others, until its reader says that it is none either."""

START = 1024
"""Bytes that tell what a file is: a PDF may begin anywhere in them."""


VIDEOS = (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"0&\xb2u\x8ef\xcf\x11")
"""Matroska and WebM, Flash, Ogg, MPEG, Windows Media."""

STILLS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
"""Brands of images in the container of MP4."""


def kind_of(file: Path | bytes, name: str) -> Kind:
    """The kind of an input.

    Args:
        file: Path, or content.
        name: Of the input; the names of some kinds say what their bytes do not.
    """
    start = _start(file)
    if b"%PDF-" in start:
        return "PDF document"
    if is_dicom(start):
        return "DICOM file"
    if is_volume(start, name):
        return "volume"
    if is_recording(start, file):
        return "recording"
    if is_slide(start, name):
        return "slide"
    video = _is_video(start) or is_motion_jpeg(file, name) or _is_cut_transport(start, name)
    return "video" if video else "picture"


def _start(file: Path | bytes) -> bytes:
    """The first bytes; none where a path cannot be read, which decoding it explains."""
    if isinstance(file, bytes):
        return file[:START]
    try:
        if not file.is_file():
            return b""
        with file.open("rb") as stream:
            return stream.read(START)
    except OSError:
        return b""


def _is_video(start: bytes) -> bool:
    if start[4:8] == b"ftyp":
        return start[8:12] not in STILLS
    # Packets of 188 bytes, or of 192 where camcorders put a time of 4 bytes before each.
    transport = any(start[at : at + 3 * step : step] == b"GGG" for at, step in ((0, 188), (4, 192)))
    return start.startswith(VIDEOS) or (start[:4] == b"RIFF" and start[8:12] == b"AVI ") or transport or _is_raw(start)


def _is_cut_transport(start: bytes, name: str) -> bool:
    """MPEG-TS that begins inside a packet, as recorders cut it, which its name has to confirm."""
    if not name.lower().endswith((".ts", ".mts", ".m2ts")):
        return False
    return any(start[at : at + 5 * step : step] == b"GGGGG" for step in (188, 192) for at in range(step))


def _is_raw(start: bytes) -> bool:
    """A stream of H.264 or HEVC without a container: it begins with a delimiter or a parameter set."""
    for mark in (b"\0\0\0\1", b"\0\0\1"):
        if start.startswith(mark) and len(start) > len(mark) + 1:
            kind, following = start[len(mark)], start[len(mark) + 1]
            h264 = kind & 0x80 == 0 and kind & 31 in (7, 9) and (kind & 31 == 9 or kind >> 5 in (1, 2, 3))
            return h264 or (kind >> 1 in (32, 33, 35) and following == 1)
    return False
