"""Where a run of `embed_files` writes, what it tells of a frame, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from naflex_deploy.runtime.results.result import Result
from naflex_deploy.runtime.results.table import Row


@dataclass(frozen=True)
class Places:
    """Where a run writes.

    Attributes:
        output: The file of vectors; its suffix names the format. ``None`` writes none.
        tokens: A folder for the tokens of each frame as [h, w, D] ``.npy``; needs an output, whose rows name the files.
        preview: A folder for a picture of each frame with its tiles, packs and tokens.
    """

    output: Path | None = None
    tokens: Path | None = None
    preview: Path | None = None


@dataclass(frozen=True)
class FrameDone:
    """A frame that was embedded.

    Attributes:
        rows: Of its images, the whole first.
        packs: The pack that each of them ran in.
        warnings: What a person should check of how its pixels came about.
    """

    rows: tuple[Row, ...]
    packs: tuple[int, ...]
    warnings: tuple[str, ...] = ()


@dataclass
class Summary:
    """What a run did.

    Attributes:
        inputs: Files, or members of shards and rows of tables, that were looked at.
        frames, images, tokens, packs: Embedded by this run; a frame in tiles is several images.
        skipped: Inputs that an earlier run had recorded completely.
        left_out: Files of directories whose suffix is not known.
        written: Rows of the output.
        damaged: Rows of an earlier run's journal that were damaged, and were embedded again.
        complete: The output was complete already, and nothing was done.
        rejected: The frames that could not be embedded, each with its error.
        seconds: Taken by all of it; loading the engine is not counted.
    """

    inputs: int = 0
    frames: int = 0
    images: int = 0
    tokens: int = 0
    packs: int = 0
    skipped: int = 0
    left_out: int = 0
    written: int = 0
    damaged: int = 0
    complete: bool = False
    rejected: list[Result] = field(default_factory=list)
    seconds: float = 0.0
