"""The options that several commands share: where a profile, an engine and a model come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from naflex_deploy.cli.terminal import err
from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.config import Config, resolve
from naflex_deploy.core.profile import Precision

DEMO = "demo"
EXAMPLE = "hf:google/siglip2-base-patch16-naflex"

Function = TypeVar("Function", bound=Callable[..., Any])


def _together(*options: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Several options as one decorator, in the order in which help lists them."""

    def declare(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return declare


source_options = _together(
    click.option(
        "--profile",
        required=True,
        metavar="NAME|FILE",
        help="A built-in profile, as `naflex-deploy profiles` lists them, or a TOML file.",
    ),
    click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="TOML laid over the profile."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="A.B=VALUE",
        help="Set one value of the profile, such as image.tokens=576. Repeatable.",
    ),
)
"""--profile, --config, --set."""

engine_options = _together(
    click.option(
        "--backend",
        type=click.Choice(list(FOLDERS)),
        help="Build for this one. Default: the first of the profile's that runs here.",
    ),
    click.option("--precision", type=click.Choice(get_args(Precision)), help="Default: the profile's, mostly auto."),
    click.option("--target", metavar="SM,…", help="GPUs to build for, such as sm86,sm89. TensorRT-RTX alone."),
)
"""--backend, --precision, --target."""

profile_options = _together(source_options, engine_options)


def model_option(default: str = "Default: demo.") -> Callable[[Function], Function]:
    """--model.

    Args:
        default: Sentence of its help that says what becomes of a command without it.
    """
    return click.option(
        "--model",
        metavar="SPEC",
        help="A transformers or timm directory, hf:ORG/NAME, timm:NAME:FILE, bv:FILE.npz, random:NAME or demo. "
        + default,
    )


model_options = _together(
    model_option(),
    click.option(
        "--patch-size", type=click.IntRange(1), metavar="N", help="Resize the patch projection, as FlexiViT does."
    ),
    click.option(
        "--lora",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Merge a LoRA adapter, as peft saves it, first.",
    ),
)
"""--model, --patch-size, --lora."""


def model_or_demo(model: str | None) -> str:
    """The model named, or the demo, which is said where nobody can miss it."""
    if model is not None and model != DEMO:
        return model
    err.print(
        "[bold black on yellow] DEMO MODEL [/] a tiny classifier of synthetic documents, to try the tool with. "
        f"For real use pass --model, for example --model {EXAMPLE}",
    )
    return DEMO


def split_targets(target: str | None) -> list[str] | None:
    """The GPUs that --target lists, ``None`` without it."""
    return [name.strip() for name in target.split(",")] if target else None


def resolve_options(
    profile: str,
    config: Path | None,
    settings: tuple[str, ...],
    backend: str | None,
    precision: str | None,
    target: str | None,
) -> Config:
    """The resolved profile of `profile_options`."""
    overrides = {
        "engine.backends": [backend] if backend else None,
        "engine.precision": precision,
        "engine.tensorrt.targets": split_targets(target),
    }
    return resolve(profile, config=config, settings=settings, overrides=overrides)
