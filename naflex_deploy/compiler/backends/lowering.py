"""The interface that the compiler asks of a backend, which is ``LOWERING`` of ``lowering.py`` in its folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import Sizes, Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends.backend import Backend


class Lowering(ABC):
    """Makes variants for one backend.

    Args:
        backend: The runtime's description of the backend.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @abstractmethod
    def lower(self, task: Task) -> Variant:
        """Make a variant, with paths relative to the bundle, whose gate has not been measured yet.

        Raises:
            PassError: An attention was not recognised.
            IncompatibleError: The library is missing, or it refuses the graph.
        """

    def refuse(self, profile: Profile, precision: str) -> None:
        """Refuse a profile that is known not to build on this machine in this precision.

        Raises:
            UsageError, IncompatibleError: It does not.
        """
        if reason := self.backend.lacks(precision):
            raise IncompatibleError(f"{precision} does not run here: {reason}", hint="--precision fp32")

    def sizes(self, profile: Profile, prefix: int) -> list[Sizes]:
        """Sizes that a GPU engine runs, at least one for each budget; empty for a CPU."""
        return []

    def attention(self, sizes: Sequence[Sizes]) -> str:
        """Describe for a person how tokens attend to each other in engines of these sizes."""
        return "image by image"
