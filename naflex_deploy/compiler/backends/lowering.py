"""What the compiler asks of a backend: ``LOWERING`` of ``lowering.py`` in its folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.core.manifest import Sizes, Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends.backend import Backend


class Lowering(ABC):
    """Makes variants for one backend.

    Args:
        backend: What the backend says of itself.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @abstractmethod
    def lower(self, task: Task) -> Variant:
        """Make a variant, with paths relative to the bundle and no gate yet.

        Raises:
            PassError: An attention was not recognised.
            IncompatibleError: The library is missing, or refuses the graph.
        """

    def refuse(self, profile: Profile, precision: str) -> None:
        """Raise an error where a profile in a precision is known not to build on this machine."""
        return

    def sizes(self, profile: Profile, prefix: int) -> list[Sizes]:
        """Sizes of what an engine for a GPU runs, one for each budget at least; empty for a CPU."""
        return []

    def attention(self, sizes: Sequence[Sizes]) -> str:
        """How tokens attend in engines of these sizes, for a person."""
        return "image by image"
