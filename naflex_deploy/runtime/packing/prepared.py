"""What comes out of preparing an input."""

from __future__ import annotations

from dataclasses import dataclass

from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.results.result import Result


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image that is ready to be packed, or the error that prevents it.

    Attributes:
        result: What is known of the image before it runs.
        patches: Its patches; ``None`` where the result has an error.
    """

    result: Result
    patches: Patches | None = None
