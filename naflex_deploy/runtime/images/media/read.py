"""Read the frames of one input of any kind."""

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
from naflex_deploy.runtime.images.media.dicom.reader import read_dicom
from naflex_deploy.runtime.images.media.frame import Frame
from naflex_deploy.runtime.images.media.kinds import Kind, kind_of
from naflex_deploy.runtime.images.media.pdf import read_pdf
from naflex_deploy.runtime.images.media.recording import read_recording
from naflex_deploy.runtime.images.media.slide import read_slide
from naflex_deploy.runtime.images.media.stills import read_image, read_still
from naflex_deploy.runtime.images.media.video import read_video
from naflex_deploy.runtime.images.media.volume import read_volume
from naflex_deploy.runtime.images.source import Source, array_of, content_of, is_tensor, open_file, refuse_url


def read_frames(
    source: Source, *, name: str, profile: Profile, done: Collection[int] = (), kind: Kind | None = None
) -> Iterator[Frame]:
    """The frames of one input, lazily, as far as they can be read: the last one may be an error.

    Args:
        source: See `decode`; also paths and contents of PDF documents, DICOM files, clips, volumes and recordings; of
            several, the frames of all.
        name: Of the input in messages.
        profile: Its sections image, video, dicom, volume and ros.
        done: Numbers of frames that are left out.
        kind: What it is, where that was decided before.
    """
    number = 0
    try:
        for frame in _read(source, name, profile, done, kind):
            yield frame
            number = frame.number + 1
    except Exception as error:
        yield Frame(number, last=True, error=as_input_error(name, error))


def _read(
    source: Source, name: str, profile: Profile, done: Collection[int], kind: Kind | None = None
) -> Iterator[Frame]:
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
    match kind or kind_of(file, name):
        case "PDF document":
            return read_pdf(file, name=name, image=image, done=done)
        case "DICOM file":
            window = profile.dicom.window
            return read_dicom(file, name=name, image=image, video=profile.video, window=window, done=done)
        case "volume":
            return read_volume(file, name=name, image=image, volume=profile.volume, done=done)
        case "recording":
            return read_recording(file, name=name, image=image, ros=profile.ros, done=done)
        case "slide":
            return read_slide(file, name=name, image=image, done=done)
        case "video":
            return read_video(file, name=name, image=image, video=profile.video, done=done)
        case _:
            return read_pictures(file, name, image, done)


def _together(sources: tuple[bytes | Path, ...], name: str, profile: Profile, done: Collection[int]) -> Iterator[Frame]:
    """The frames of several sources as those of one input."""
    number = 0
    for place, source in enumerate(sources):
        for frame in _read(source, name, profile, ()):
            if number not in done:
                yield replace(frame, number=number, last=frame.last and place == len(sources) - 1)
            number += 1


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
