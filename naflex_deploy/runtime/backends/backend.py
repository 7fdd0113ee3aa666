"""The interface of a backend, which the compiler, the loading of bundles and ``doctor`` ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends.session import Session

Check = tuple[str, str, str]
"""A row of ``doctor``: what was checked, what was found, and the remedy, which is empty where none is needed."""


class Backend(ABC):
    """A library that runs packs. Creating a backend loads nothing; its methods inspect the machine on every call.

    Args:
        name: Name of the backend in profiles and manifests.

    Attributes:
        precisions: Precisions that it builds and runs, the default first.
        on_gpu: Whether it runs on a GPU rather than on the CPU.
    """

    precisions: ClassVar[tuple[str, ...]]
    on_gpu: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        self.name = name

    def automatic(self, profile: Profile) -> str | None:
        """The precision that ``auto`` stands for in a profile; ``None`` where other backends are better here."""
        return self.precisions[0]

    def cannot_build(self) -> str | None:
        """The reason why no engine can be built on this machine; ``None`` where one can."""
        return None

    @abstractmethod
    def cannot_run(self) -> str | None:
        """The reason why this machine can run no engine of this backend; ``None`` where it can run some."""

    def lacks(self, precision: str) -> str | None:
        """Why this machine does not compute in a precision; ``None`` where it does, or only a build can tell."""
        return None

    def refuses(self, variant: Variant) -> str | None:
        """The reason why this machine cannot run a variant, from its manifest entry alone; ``None`` where it can."""
        return self.cannot_run() or self.lacks(variant.precision)

    @abstractmethod
    def open(self, bundle: Path, variant: Variant) -> Session:
        """Load a variant's engine, whose files have been checked already.

        Raises:
            IncompatibleError: This machine cannot run the variant.
        """

    @abstractmethod
    def library(self) -> str:
        """Name and version of the library, such as ``onnxruntime 1.27.0``."""

    @abstractmethod
    def checks(self) -> list[Check]:
        """The rows of ``doctor`` about this backend."""
