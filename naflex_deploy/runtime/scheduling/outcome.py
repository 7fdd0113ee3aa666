"""What came of an image that a scheduler ran, and of a pack."""

from __future__ import annotations

from dataclasses import dataclass

from naflex_deploy.runtime.packing.isolation import Results


@dataclass(frozen=True, eq=False)
class ImageOutcome:
    """One image's result and how it came about. Times in seconds.

    Attributes:
        outputs: ``pooled`` [D], ``logits`` [classes], ``tokens`` [h, w, D], those asked for. float32.
        grid_hw: Rows and columns of its patches.
        pack: Number of its pack, from 0.
        start: Its first token in the pack.
        decoded: From arrival to the end of decoding.
        waited: From there to the start of the run.
        ran: The run.
    """

    outputs: Results
    grid_hw: tuple[int, int]
    pack: int
    start: int
    decoded: float
    waited: float
    ran: float


@dataclass(frozen=True)
class PackReport:
    """One pack that ran, for metrics. Times in seconds."""

    images: int
    tokens: int
    budget: int
    waits: tuple[float, ...]
    laid_out: float
    ran: float
