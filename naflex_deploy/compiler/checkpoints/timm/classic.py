"""Options of a classic ViT, EVA or SigLIP that was made with ``use_naflex=True``.

Such a model is a NaFlexVit whose options follow from the classic architecture's, of which timm registers hundreds:
timm itself makes the module, without weights, and its options are read off that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from naflex_deploy.compiler.checkpoints.timm.module import options_of
from naflex_deploy.core.errors import CheckpointError


def classic_options(architecture: str, arguments: Mapping[str, Any], classes: int, source: str) -> dict[str, Any]:
    """Options under timm's names of NaFlexVit's.

    Raises:
        CheckpointError: timm cannot be imported, cannot make it, or makes something else than a NaFlexVit.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise CheckpointError(
            f"{source}: architecture '{architecture}' with use_naflex = True needs timm, which does not import: "
            f"{next(iter(str(error).splitlines()), '')}",
            hint="pip install 'naflex-deploy[originals]'",
        ) from None
    try:
        with torch.device("meta"):
            model = timm.create_model(architecture, **{**arguments, "num_classes": classes})
    except Exception as error:  # timm raises whatever its classes raise
        raise CheckpointError(
            f"{source}: timm {timm.__version__} cannot make '{architecture}' with {dict(arguments)}: "
            f"{next(iter(str(error).splitlines()), type(error).__name__)}",
            hint="install the version of timm that saved it",
        ) from None
    if type(model).__name__ != "NaFlexVit":
        raise CheckpointError(
            f"{source}: architecture '{architecture}' is a {type(model).__name__}, expected a NaFlexVit",
            hint="make the model with use_naflex=True",
        )
    return options_of(model)
