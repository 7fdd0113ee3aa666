"""Results of the images and packs that a scheduler ran."""

from __future__ import annotations

from dataclasses import dataclass

from naflex_deploy.runtime.packing.isolation import Results


@dataclass(frozen=True, eq=False)
class ImageOutcome:
    """One image's result, and the time of each stage in seconds.

    Attributes:
        outputs: The requested ones of ``pooled`` [D], ``logits`` [classes] and ``tokens`` [h, w, D], float32; tokens
            for language models of an image in tiles are [1, g, D], in their order.
        grid_hw: Rows and columns of the image's patch grid.
        pack: Number of the pack that it ran in, from 0.
        start: Index of its first token in the pack.
        decoded: Time from arrival to the end of decoding.
        waited: Time from the end of decoding to the start of the run.
        ran: Time of the run of its pack.
        parts: Grids of its tiles and then of the whole image; empty where it is not cut.
    """

    outputs: Results
    grid_hw: tuple[int, int]
    pack: int
    start: int
    decoded: float
    waited: float
    ran: float
    parts: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class PackReport:
    """One pack that ran, for metrics. Times are in seconds; ``waits`` has one per image."""

    images: int
    tokens: int
    budget: int
    waits: tuple[float, ...]
    laid_out: float
    ran: float
