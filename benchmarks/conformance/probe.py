"""One probe: an input, what an independent viewer makes of it, and what the readers here do."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL.Image import Resampling

from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError, NaflexError
from naflex_deploy.runtime.images.inputs import open_inputs
from naflex_deploy.runtime.images.media.read import read_frames

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Probe:
    """An input and its reference.

    Attributes:
        name: What is special about it.
        path: The input.
        reference: Gives [h, w, 3] of the viewer, in the given empty folder.
        by: The viewer.
        mean: Largest mean difference, in levels of 255, that counts as the same picture.
        settings: Of the profile.
        frame: Which frame is compared.
        entry: Which input, of a table or a shard.
        pages: How many frames it has, where that is looked at.
        size: (width, height) to draw at; that of square pixels where there is none.
    """

    name: str
    path: Path
    reference: Callable[[Path], Pixels]
    by: str
    mean: float = 1.0
    settings: tuple[str, ...] = ()
    frame: int = 0
    entry: int = 0
    pages: int | None = None
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Verdict:
    """What came out: ``right``, ``refused: …`` or ``wrong: …``, and the differences in levels of 255."""

    verdict: str
    largest: int | None = None
    mean: float | None = None


def judge(probe: Probe, folder: Path) -> Verdict:
    """Run a probe."""
    profile = resolve("photo", settings=probe.settings, environment={}).profile
    item = list(open_inputs([probe.path]))[probe.entry]
    if isinstance(item.source, NaflexError):
        return _refused(item.source, probe)
    pixels, count = None, 0
    for frame in read_frames(item.source, name=item.name, profile=profile):
        count += 1
        if frame.number == probe.frame:
            if frame.picture is None:
                return _refused(frame.error, probe)
            size = probe.size or frame.shown_size
            pixels = np.asarray(frame.picture.resize(size, Resampling.BILINEAR)).astype(int)
            if probe.pages is None:
                break
    if pixels is None or probe.pages not in (None, count):
        return Verdict(f"wrong: {count} frames, expected {probe.pages or probe.frame + 1}")
    expected = probe.reference(folder).astype(int)
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, 2)
    if pixels.shape != expected.shape:
        return Verdict(f"wrong: {pixels.shape[1]}x{pixels.shape[0]}, expected {expected.shape[1]}x{expected.shape[0]}")
    difference = np.abs(pixels - expected)
    mean = float(difference.mean())
    word = "right" if mean <= probe.mean else f"wrong: above a mean of {probe.mean:g}"
    return Verdict(word, int(difference.max()), round(mean, 2))


def _refused(error: NaflexError | None, probe: Probe) -> Verdict:
    word = "refused" if isinstance(error, ImageError) else "wrong"
    return Verdict(f"{word}: {str(getattr(error, 'message', 'no picture')).replace(str(probe.path), '…')}")


def run(*command: str | Path) -> bytes:
    """Run a viewer.

    Raises:
        RuntimeError: It failed.
    """
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]}: {done.stderr.decode(errors='replace')[-300:]}")
    return done.stdout


def pnm(content: bytes) -> Pixels:
    """A binary PNM of 8 bits, parsed here: no library stands between a viewer and the comparison."""
    words: list[bytes] = []
    place = 0
    while len(words) < 4:
        end = place
        while not content[end : end + 1].isspace():
            end += 1
        word = content[place:end]
        place = end + 1
        if word.startswith(b"#"):
            place = content.index(b"\n", place - 1) + 1
        elif word:
            words.append(word)
    kind, width, height = words[0], int(words[1]), int(words[2])
    channels = 3 if kind == b"P6" else 1
    values = np.frombuffer(content, np.uint8, width * height * channels, place)
    return values.reshape(height, width, channels) if channels == 3 else values.reshape(height, width)
