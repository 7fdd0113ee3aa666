"""The options by which commands are given a profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from naflex_deploy.core.config import Config, resolve

DEMO = "demo"


def source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """--profile, --config, --set."""
    for option in reversed(
        (
            click.option("--profile", required=True, help="A built-in profile, or the path of a TOML file."),
            click.option("--config", type=click.Path(path_type=Path), help="TOML laid over the profile."),
            click.option("--set", "settings", multiple=True, metavar="A.B=VALUE", help="Set one value. Repeatable."),
        )
    ):
        function = option(function)
    return function


def profile_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Those of `source_options`, and --backend, --precision, --target."""
    for option in reversed(
        (
            click.option("--backend", help="Build for one: onnxruntime, onnxruntime-cuda, tensorrt, tensorrt-rtx."),
            click.option("--precision", help="fp32, fp16, bf16, int8, fp8 or auto."),
            click.option("--target", metavar="SM,…", help="GPUs to build for, such as sm86,sm89. TensorRT-RTX alone."),
        )
    ):
        function = option(function)
    return source_options(function)


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
        "engine.tensorrt.targets": [name.strip() for name in target.split(",")] if target else None,
    }
    return resolve(profile, config=config, settings=settings, overrides=overrides)
