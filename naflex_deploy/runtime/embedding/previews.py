"""Previews of a run: noted as frames are embedded, drawn when all are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import NaflexError
from naflex_deploy.core.files import new_file
from naflex_deploy.core.locks import Lock
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.inputs import open_inputs
from naflex_deploy.runtime.images.media.read import read_frames
from naflex_deploy.runtime.results.journal import Done
from naflex_deploy.runtime.results.preview import draw_preview, principal_colours
from naflex_deploy.runtime.results.result import Result


class Previews:
    """The frames of one run that get a picture.

    Args:
        folder: Where the pictures go; ``None`` draws none.
        lock: Of the folder.
    """

    def __init__(self, folder: Path | None, lock: Lock | None) -> None:
        self._folder = folder
        self._lock = lock
        self._noted: dict[tuple[str, int], tuple[list[Result], npt.NDArray[np.uint8] | None]] = {}

    def __bool__(self) -> bool:
        """Whether pictures are drawn."""
        return self._folder is not None

    def note(self, images: Sequence[Result], joined: Result) -> None:
        """Remember where a frame's images ran and how its tokens are coloured, without their values."""
        if self._folder is not None:
            colours = principal_colours(joined.outputs["tokens"]) if "tokens" in joined.outputs else None
            self._noted[joined.name, joined.frame] = [replace(image, outputs={}) for image in images], colours

    def drawn(self, number: int, done: Done) -> Done:
        """What is recorded of an input, but for frames whose picture is missing.

        Args:
            number: Of the input, from 0.
            done: What is recorded.
        """
        if self._folder is None:
            return done
        frames = frozenset(frame for frame in done.frames if self._path(number, frame).exists())
        return Done(frames, done.all and frames == done.frames)

    def _path(self, number: int, frame: int) -> Path:
        return (self._folder or Path()) / f"{number:06}-{frame:05}.png"

    def draw(self, engine: Engine, paths: Iterable[Path]) -> None:
        """Write a picture of each frame noted. The inputs are read once more, as their pixels were not kept.

        Raises:
            OutputError: A picture cannot be written.
        """
        if self._folder is None:
            return
        profile, budget = engine.manifest.config, engine.variant.budgets[-1]
        wanted = {name for name, _ in self._noted}
        for number, item in enumerate(open_inputs(paths, limits=profile.limits)):
            if item.name not in wanted or isinstance(item.source, NaflexError):
                continue
            for frame in read_frames(item.source, name=item.name, profile=profile):
                found = self._noted.get((item.name, frame.number))
                if found and frame.picture:
                    with new_file(self._path(number, frame.number), self._lock, synced=False) as partial:
                        draw_preview(frame.picture, found[0], budget, found[1]).save(partial, "PNG")
