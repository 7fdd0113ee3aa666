"""What a backend says of itself: to the compiler, to whoever loads a bundle, and to ``doctor``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends.session import Session

Check = tuple[str, str, str]
"""A row of ``doctor``: what was looked for, what was found, and the remedy, empty where none is needed."""


class Backend(ABC):
    """A library that runs packs. Making one loads nothing; its methods look at the machine each time.

    Args:
        name: As profiles and manifests have it.

    Attributes:
        precisions: It builds and runs; the first is the usual choice.
        on_gpu: Whether it runs on the GPU rather than the CPU.
    """

    precisions: ClassVar[tuple[str, ...]]
    on_gpu: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self.name = name

    def automatic(self, profile: Profile) -> str:
        """The precision that ``auto`` means under a profile."""
        return self.precisions[0]

    def cannot_build(self) -> str | None:
        """Why no engine can be built on this machine, ``None`` where one can."""
        return None

    @abstractmethod
    def cannot_run(self) -> str | None:
        """Why this machine runs no engine of this backend at all, ``None`` where it runs some."""

    def refuses(self, variant: Variant) -> str | None:
        """Why this machine cannot run a variant, by its manifest entry alone, ``None`` where it can."""
        return self.cannot_run()

    @abstractmethod
    def open(self, bundle: Path, variant: Variant) -> Session:
        """Load a variant's engine; its files have been checked already.

        Raises:
            IncompatibleError: The machine cannot run it.
        """

    @abstractmethod
    def library(self) -> str:
        """Name and version of the library, such as ``onnxruntime 1.27.0``."""

    @abstractmethod
    def checks(self) -> list[Check]:
        """Rows of ``doctor``."""
