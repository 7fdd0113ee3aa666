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
from naflex_deploy.core.version import __version__

if TYPE_CHECKING:
    from torch import nn

    from naflex_deploy.core.manifest import Manifest
    from naflex_deploy.runtime.engine import Engine

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
    witness: bool = True,
    force: bool = False,
    report: Callable[[str], None] = lambda step: None,
) -> Manifest:
    """Build a bundle. Needs ``pip install 'naflex-deploy[build]'``.

    Args:
        profile: Name of a built-in profile, or path of a TOML file.
        model: A directory written by transformers or timm; a SPEC such as ``hf:ORG/NAME`` or ``demo``, whose forms
            docs/checkpoints.md lists; or a torch module of transformers or timm.
        output: Directory of the bundle. It appears only when everything in it is written and has passed the gate.
        settings: ``"a.b=value"`` strings that override values of the profile, such as ``"image.tokens=576"``.
        patch_size: Resize the model's patch projection to this many pixels a side, as FlexiViT does.
        lora: Directory of a LoRA adapter saved by peft, which is merged into the weights.
        labels: A file with one text per line; the texts become the classes of a two-tower model.
        text: Include the text tower in the bundle, for `Engine.text`.
        calibration: The file that ``naflex-deploy calibrate`` wrote; int8 and fp8 need it.
        witness: Compare the graph with the original model, where transformers or timm can load it.
        force: Replace an existing bundle.
        report: Called with one line of text at the start of each step; `print` shows progress.

    Returns:
        The content of the bundle's ``manifest.json``: its variants, the gate result of each, and its sources.

    Raises:
        NaflexError: The build failed; the error says what was expected, what was found and what to do.
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
        witness=witness,
        force=force,
        report=report,
    )


def load(
    bundle: str | PathLike[str],
    *,
    variant: str | None = None,
    settings: str | Sequence[str] = (),
    public_key: str | PathLike[str] | None = None,
) -> Engine:
    """Load an engine from a bundle: the named variant, or the first one that this machine can run.

    Args:
        bundle: Directory of the bundle, or ``hf:ORG/NAME[@REVISION]`` on the Hugging Face hub (extra ``hub``), of which
            the files of one variant are downloaded and checked.
        variant: Name of the variant to load. Default: the first one that this machine can run.
        settings: ``"a.b=value"`` strings that override the sections ``image`` and ``video`` of the bundle's profile,
            such as ``"image.dpi=200"``.
        public_key: PEM file of the key that must have signed the bundle (extra ``sign``). Default: no check.

    Returns:
        An `Engine`, with ``embed``, ``tokens``, ``classify`` and ``stream``; any thread may call them.

    Raises:
        BundleError: A file is missing or changed, or the bundle is not signed with the key.
        IncompatibleError: A newer version wrote the bundle, or no variant can run here; the error says why for each.
    """
    from naflex_deploy.runtime import loading

    key = Path(public_key) if public_key else None
    return loading.load(bundle, variant, settings, key)
