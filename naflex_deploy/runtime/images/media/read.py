"""Read the frames of one input of any kind, told by its first bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from naflex_deploy.core.profile import ImageSection, Profile
from naflex_deploy.runtime.images.boundary import as_input_error
from naflex_deploy.runtime.images.media.colours import from_array
from naflex_deploy.runtime.images.media.dicom.reader import is_dicom, read_dicom
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.pdf import read_pdf
from naflex_deploy.runtime.images.media.recording import is_recording, read_recording
from naflex_deploy.runtime.images.media.slide import is_slide, read_slide
from naflex_deploy.runtime.images.media.stills import read_image, read_still
from naflex_deploy.runtime.images.media.video import is_motion_jpeg, read_video
from naflex_deploy.runtime.images.media.volume import is_volume, read_volume
from naflex_deploy.runtime.images.source import Source, array_of, content_of, is_tensor, open_file, refuse_url

START = 1024
"""Bytes that tell what a file is: a PDF may begin anywhere in them."""


VIDEOS = (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"0&\xb2u\x8ef\xcf\x11")
"""Matroska and WebM, Flash, Ogg, MPEG, Windows Media."""

STILLS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")
"""Brands of images in the container of MP4."""


def read_frames(source: Source, *, name: str, profile: Profile, done: Collection[int] = ()) -> Iterator[Frame]:
    """The frames of one input, lazily, as far as they can be read: the last one may be an error.

    Args:
        source: See `decode`; also paths and contents of PDF documents, DICOM files, clips, volumes and recordings; of
            several, the frames of all.
        name: Of the input in messages.
        profile: Its sections image, video, dicom, volume and ros.
        done: Numbers of frames that are left out.
    """
    number = 0
    try:
        for frame in _read(source, name, profile, done):
            yield frame
            number = frame.number + 1
    except Exception as error:
        yield Frame(number, last=True, error=as_input_error(name, error))


def _read(source: Source, name: str, profile: Profile, done: Collection[int]) -> Iterator[Frame]:
    image = profile.image
    if isinstance(source, tuple):
        return _together(source, name, profile, done)
    if is_tensor(source):
        source = array_of(source, name)
    if isinstance(source, Image.Image | np.ndarray):
        return read_pictures(source, name, image, done)
    file = Path(source) if isinstance(source, str | Path) else content_of(source, name)
    if isinstance(file, Path):
        refuse_url(file, name)
    start = _start(file)
    if b"%PDF-" in start:
        return read_pdf(file, name=name, image=image, done=done)
    if is_dicom(start):
        window = profile.dicom.window
        return read_dicom(file, name=name, image=image, video=profile.video, window=window, done=done)
    if is_volume(start, name):
        return read_volume(file, name=name, image=image, volume=profile.volume, done=done)
    if is_recording(start, file):
        return read_recording(file, name=name, image=image, ros=profile.ros, done=done)
    if is_slide(start, name):
        return read_slide(file, name=name, image=image, done=done)
    if _is_video(start) or is_motion_jpeg(file, name):
        return read_video(file, name=name, image=image, video=profile.video, done=done)
    return read_pictures(file, name, image, done)


def _together(sources: tuple[bytes | Path, ...], name: str, profile: Profile, done: Collection[int]) -> Iterator[Frame]:
    """The frames of several sources as those of one input."""
    number = 0
    for place, source in enumerate(sources):
        for frame in _read(source, name, profile, ()):
            if number not in done:
                yield replace(frame, number=number, last=frame.last and place == len(sources) - 1)
            number += 1


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


def _is_raw(start: bytes) -> bool:
    """A stream of H.264 or HEVC without a container: it begins with a delimiter or a parameter set."""
    for mark in (b"\0\0\0\1", b"\0\0\1"):
        if start.startswith(mark) and len(start) > len(mark) + 1:
            kind, following = start[len(mark)], start[len(mark) + 1]
            h264 = kind & 0x80 == 0 and kind & 31 in (7, 9) and (kind & 31 == 9 or kind >> 5 in (1, 2, 3))
            return h264 or (kind >> 1 in (32, 33, 35) and following == 1)
    return False


def read_pictures(source: Source, name: str, image: ImageSection, done: Collection[int] = ()) -> Iterator[Frame]:
    """The frames of a still image: a path, its content, a stream, a Pillow image or an array."""
    if isinstance(source, np.ndarray):
        if 0 not in done:
            rgb, decisions = from_array(source, name, image)
            yield Frame(0, rgb, last=True, decisions=decisions)
    elif isinstance(source, Image.Image):
        if 0 not in done:
            yield read_image(source, name=name, image=image)
    elif isinstance(source, str | Path):
        with open_file(Path(source), name) as stream:
            yield from read_still(stream, name=name, image=image, done=done)
    else:
        yield from read_still(BytesIO(content_of(source, name)), name=name, image=image, done=done)
