"""Options that several commands share: the profile, the engine and the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from naflex_deploy.cli.terminal import err, path_option
from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.config import Config, resolve
from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.manifest import Manifest
from naflex_deploy.core.profile import Precision, Profile

DEMO = "demo"
DEMO_PROFILE = "doc-ocr"
EXAMPLE = "hf:google/siglip2-base-patch16-naflex"

Function = TypeVar("Function", bound=Callable[..., Any])


def _together(*options: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Combine several options into one decorator. Help lists them in this order."""

    def declare(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return declare


source_options = _together(
    click.option(
        "--profile",
        metavar="NAME|FILE",
        help="Built-in profile, as `naflex-deploy profiles` lists them, or a TOML file. Default: doc-ocr for the demo "
        "model, and that of the bundle that is named; otherwise it is needed.",
    ),
    path_option("--config", metavar="FILE", help="TOML file whose values override the profile's."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="A.B=VALUE",
        help="Set one value of the profile, for example image.tokens=576. Repeatable.",
    ),
)
"""--profile, --config, --set."""

engine_options = _together(
    click.option(
        "--backend",
        type=click.Choice(list(FOLDERS)),
        help="Build for this backend. Default: the first one of the profile that runs here.",
    ),
    click.option(
        "--precision",
        type=click.Choice(get_args(Precision)),
        help="Precision of the engine. Default: as in the profile, usually auto.",
    ),
    click.option(
        "--target",
        metavar="SM,…",
        help="GPU architectures to build for with TensorRT-RTX, for example sm86,sm89. Default: as in the profile.",
    ),
)
"""--backend, --precision, --target."""

profile_options = _together(source_options, engine_options)


def model_option(default: str = "Default: demo.") -> Callable[[Function], Function]:
    """--model.

    Args:
        default: Sentence for the help text that says what the command does without the option.
    """
    return click.option(
        "--model",
        metavar="SPEC",
        help="A checkpoint: a directory, or a SPEC such as hf:ORG/NAME; docs/checkpoints.md lists the forms. "
        + default,
    )


model_options = _together(
    model_option(),
    click.option(
        "--patch-size",
        type=click.IntRange(1),
        metavar="N",
        help="Resize the patch projection to N pixels a side, as FlexiViT does. Default: as in the checkpoint.",
    ),
    path_option(
        "--lora",
        metavar="DIR",
        help="Directory of a LoRA adapter, as peft saves it, to merge into the weights. Default: none.",
    ),
)
"""--model, --patch-size, --lora."""


def model_or_demo(model: str | None) -> str:
    """The model that was named, or the demo model, which prints a notice that nobody can miss."""
    if model is not None and model != DEMO:
        return model
    err.print(
        "[bold black on yellow] DEMO MODEL [/] a tiny classifier of synthetic documents for trying the tool. "
        f"For real use pass --model, for example --model {EXAMPLE}",
    )
    return DEMO


def split_targets(target: str | None) -> list[str] | None:
    """The GPU architectures that --target lists; ``None`` without the option."""
    return [name.strip() for name in target.split(",")] if target else None


def chosen_profile(profile: str | None, model: str | None, bundle: Path | None = None) -> str | Profile:
    """The profile that was named, or the only one that makes sense.

    Args:
        profile: As named.
        model: As named; the demo model was trained for one profile.
        bundle: A bundle that the command works on.

    Raises:
        UsageError: Nothing says which profile fits.
    """
    if profile is not None:
        return profile
    if bundle is not None:
        return Manifest.read(bundle).config
    if model == DEMO:
        err.print(f"profile {DEMO_PROFILE}, for which the demo model was trained", markup=False)
        return DEMO_PROFILE
    raise UsageError(
        "expected --profile, as nothing says how images become tokens",
        hint="naflex-deploy profiles lists them, for example --profile photo",
    )


def resolve_options(
    profile: str | Profile,
    config: Path | None,
    settings: tuple[str, ...],
    backend: str | None,
    precision: str | None,
    target: str | None,
) -> Config:
    """Resolve the profile with the values of `profile_options`."""
    overrides = {
        "engine.backends": [backend] if backend else None,
        "engine.precision": precision,
        "engine.tensorrt.targets": split_targets(target),
    }
    return resolve(profile, config=config, settings=settings, overrides=overrides)
