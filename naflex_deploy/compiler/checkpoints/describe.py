"""What a checkpoint is, and whether it can be built, without building it."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from math import prod
from pathlib import Path
from typing import Any

from torch import nn

from naflex_deploy.compiler.checkpoints import read
from naflex_deploy.compiler.checkpoints.random_weights import shape_of, weight_shapes
from naflex_deploy.compiler.model.architecture import Architecture
from naflex_deploy.core.errors import CheckpointError, NoCheckpointError
from naflex_deploy.core.preprocessing import Preprocessing


@dataclass(frozen=True)
class Description:
    """A checkpoint in a few words.

    Attributes:
        source: Where from.
        buildable: Nothing stands against building it.
        reason: What does, empty where nothing does.
        architecture: Shape and options, ``None`` where not buildable.
        preprocessing: How the model wants its pixels, ``None`` where not buildable.
        parameters: Number of weights, 0 where not buildable.
        labels: Name of each class.
    """

    source: str
    buildable: bool
    reason: str = ""
    architecture: Architecture | None = None
    preprocessing: Preprocessing | None = None
    parameters: int = 0
    labels: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """What a profile can ask for."""
        return self.architecture.outputs if self.architecture else ()

    @property
    def options(self) -> dict[str, Any]:
        """Every option that differs from a plain SigLIP2 model's, with its value; shapes come first."""
        if self.architecture is None:
            return {}
        return {
            field.name: getattr(self.architecture, field.name)
            for field in fields(Architecture)
            if field.default is MISSING or getattr(self.architecture, field.name) != field.default
        }


def describe(model: str | Path | nn.Module) -> Description:
    """Describe what `read` would read; takes what it takes.

    A checkpoint that is refused is described too, by the reason.

    Raises:
        NoCheckpointError: There is none.
    """
    source = type(model).__name__ if isinstance(model, nn.Module) else str(model)
    try:
        if source.startswith("random:"):
            architecture, preprocessing = shape_of(source.removeprefix("random:"))
            labels: tuple[str, ...] = ()
        else:
            checkpoint = read(model)
            source, labels = checkpoint.source, checkpoint.labels
            architecture, preprocessing = checkpoint.architecture, checkpoint.preprocessing
    except NoCheckpointError:
        raise
    except CheckpointError as error:
        return Description(source, buildable=False, reason=str(error))
    parameters = sum(prod(shape) for shape in weight_shapes(architecture).values())
    return Description(
        source,
        buildable=True,
        architecture=architecture,
        preprocessing=preprocessing,
        parameters=parameters,
        labels=labels,
    )
