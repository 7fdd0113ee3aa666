"""Compile a NaFlex vision transformer once; run any mix of image sizes in one packed call.

import naflex_deploy as nd
nd.build(profile="doc-ocr", model="hf:google/siglip2-base-patch16-naflex", output="build/doc-ocr")
engine = nd.load("build/doc-ocr")
engine.embed(["page.png", "receipt.jpg"])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from naflex_deploy.core.errors import ImageError, NaflexError

if TYPE_CHECKING:
    from torch import nn

    from naflex_deploy.core.manifest import Manifest
    from naflex_deploy.runtime.engine import Engine

__version__ = "0.1.0"
__all__ = ["ImageError", "NaflexError", "__version__", "build", "load"]


def build(
    profile: str | PathLike[str],
    model: str | PathLike[str] | nn.Module,
    output: str | PathLike[str],
    *,
    settings: str | Sequence[str] = (),
    patch_size: int | None = None,
    lora: str | PathLike[str] | None = None,
    labels: str | PathLike[str] | None = None,
    text: bool = False,
    calibration: str | PathLike[str] | None = None,
    force: bool = False,
    report: Callable[[str], None] = lambda step: None,
) -> Manifest:
    """Build a bundle. Needs ``pip install 'naflex-deploy[build]'``.

    Args:
        profile: Name of a built-in profile, or path of a TOML file.
        model: A directory as transformers or timm writes it; ``hf:ORG/NAME``; ``timm:NAME:FILE.safetensors``;
            ``bv:FILE.npz``; ``random:NAME``; ``demo``; or a torch module of transformers or timm.
        output: Directory of the bundle; appears when everything in it is written and has passed its gate.
        settings: ``"a.b=value"``, laid over the profile, such as ``"image.tokens=576"``.
        patch_size: Resize the model's patch projection to this many pixels a side, as FlexiViT does.
        lora: A directory as peft saves a LoRA adapter, to be merged into the weights.
        labels: A file with a text a line, which become the classes of a two-tower model.
        text: Put the text tower into the bundle too, for `Engine.text`.
        calibration: What ``naflex-deploy calibrate`` wrote; int8 and fp8 need it.
        force: Replace a bundle that is there.
        report: Called with a line at the start of each step, such as `print`.

    Returns:
        What the bundle's ``manifest.json`` holds: its variants, how each did at its gate, what was built from what.

    Raises:
        NaflexError: With what was expected, what was found and what to do.
    """
    from naflex_deploy.core.config import resolve
    from naflex_deploy.core.errors import needs_extra

    config = resolve(str(profile), settings=settings)
    with needs_extra("build"):
        from naflex_deploy.compiler.pipeline import build_bundle
    spec = str(model) if isinstance(model, PathLike) else model
    return build_bundle(
        config,
        spec,
        Path(output),
        patch_size=patch_size,
        lora=Path(lora) if lora else None,
        labels=Path(labels) if labels else None,
        text=text,
        calibration=Path(calibration) if calibration else None,
        force=force,
        report=report,
    )


def load(bundle: str | PathLike[str], *, variant: str | None = None, settings: str | Sequence[str] = ()) -> Engine:
    """Load a bundle's engine: the first variant that fits this machine, or the one named.

    Args:
        bundle: Directory.
        variant: Name of one of its variants.
        settings: ``"a.b=value"``, laid over the sections image and video of the bundle's profile, such as
            ``"image.dpi=200"``.

    Returns:
        An `Engine`, with ``embed``, ``tokens``, ``classify`` and ``stream``; any thread may call them.

    Raises:
        BundleError: A file is missing or changed.
        IncompatibleError: A newer tool wrote it, or no variant can run here; gives each one's reason.
    """
    from naflex_deploy.runtime.engine import load_engine

    return load_engine(Path(bundle), variant, settings=settings)
