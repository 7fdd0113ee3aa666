"""What a checkpoint is and whether it can be built, found out without building it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
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
        buildable: Whether it can be built.
        reason: Why it cannot be built; empty where it can.
        architecture: Shape and options, ``None`` where not buildable.
        preprocessing: How the model wants its pixels, ``None`` where not buildable.
        parameters: Number of weights, 0 where not buildable.
        labels: Name of each class.
        origins: Where each value of the preprocessing was found.
        left_out: Files of weights that lie beside the model's and are not read.
        family: Kind of the vision-language model whose image tower this is; empty where it stands alone.
        note: What else a person should know of the outputs of that family.
    """

    source: str
    buildable: bool
    reason: str = ""
    architecture: Architecture | None = None
    preprocessing: Preprocessing | None = None
    parameters: int = 0
    labels: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    family: str = ""
    note: str = ""

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
            option.name: getattr(self.architecture, option.name)
            for option in fields(Architecture)
            if option.default is MISSING or getattr(self.architecture, option.name) != option.default
        }


def describe(model: str | Path | nn.Module) -> Description:
    """Describe what `read` would read.

    A checkpoint that is refused is described by the reason.

    Args:
        model: As for `read`.

    Raises:
        NoCheckpointError: There is no checkpoint.
    """
    source = type(model).__name__ if isinstance(model, nn.Module) else str(model)
    try:
        if source.startswith("random:"):
            architecture, preprocessing = shape_of(source.removeprefix("random:"))
            checkpoint = None
        else:
            checkpoint = read(model)
            source, architecture, preprocessing = checkpoint.source, checkpoint.architecture, checkpoint.preprocessing
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
        labels=checkpoint.labels if checkpoint else (),
        origins=checkpoint.origins if checkpoint else {},
        left_out=checkpoint.left_out if checkpoint else (),
        family=checkpoint.family if checkpoint else "",
        note=checkpoint.note if checkpoint else "",
    )
