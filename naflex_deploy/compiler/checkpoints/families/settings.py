"""What a family's ``config.json`` says of its tower, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

from naflex_deploy.compiler.checkpoints.hf.reader import checked
from naflex_deploy.compiler.model.architecture import Architecture, Rope
from naflex_deploy.core.errors import CheckpointError


def vision_settings(
    config: Mapping[str, Any], defaults: Mapping[str, Any], source: str, names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The options of the tower: those of ``vision_config``, and the library's defaults for what it leaves out.

    Args:
        config: The whole config.
        defaults: By option, with values of the right type.
        source: For messages.
        names: Further names of options, as other versions of the model write them → the name in ``defaults``.

    Raises:
        CheckpointError: An option is of another type, or the activation is unknown.
    """
    stated = config.get("vision_config")
    if not isinstance(stated, Mapping):
        raise CheckpointError(
            f"{source}: config.json: expected an object 'vision_config', found {stated!r}",
            hint="the model has no image tower, or its config is incomplete",
        )
    renamed = {(names or {}).get(name, name): value for name, value in stated.items()}
    return checked(renamed, defaults, source)


def text_width(config: Mapping[str, Any], source: str) -> int:
    """Channels of a token of the language model, whose options lie in ``text_config`` or in the config itself.

    Raises:
        CheckpointError: The config does not say it.
    """
    text = config.get("text_config")
    width = (text if isinstance(text, Mapping) else config).get("hidden_size")
    if type(width) is not int or width < 1:
        raise CheckpointError(
            f"{source}: config.json: hidden_size of the language model: expected a positive int, found {width!r}",
            hint="correct the value, or save the config again",
        )
    return width


def axial_rope(vision: Mapping[str, Any], source: str) -> Rope:
    """The rotary embedding of rows and columns.

    Raises:
        CheckpointError: It is of another type.
    """
    stated = vision.get("rope_parameters") or {}
    kind, theta = stated.get("rope_type", "axial"), stated.get("rope_theta", 10_000.0)
    if kind not in ("axial", "default"):
        raise CheckpointError(
            f"{source}: config.json: vision_config.rope_parameters: rope_type = {kind!r} is not supported",
            hint="axial is; another rotary embedding puts tokens on other places",
        )
    if isinstance(theta, bool) or not isinstance(theta, int | float) or theta <= 0:
        raise CheckpointError(
            f"{source}: config.json: vision_config.rope_parameters: rope_theta = {theta!r}, expected a positive number",
            hint="correct the value, or save the config again",
        )
    return Rope("axial", float(theta))


def square_side(entries: int, option: str, source: str) -> int:
    """Side of a square table.

    Raises:
        CheckpointError: The table is not square.
    """
    side = isqrt(max(entries, 0))
    if side < 1 or side * side != entries:
        raise CheckpointError(
            f"{source}: config.json: {option} = {entries} is not square", hint="position tables of such towers are"
        )
    return side


def only(vision: Mapping[str, Any], option: str, allowed: Sequence[object], source: str) -> None:
    """Refuse an option that has another value than those known.

    Raises:
        CheckpointError: It has.
    """
    if vision.get(option) not in (None, *allowed):
        raise CheckpointError(
            f"{source}: config.json: {option} = {vision[option]!r} is not supported",
            hint=f"supported: {', '.join(map(repr, allowed))}",
        )


def architecture(source: str, **options: Any) -> Architecture:
    """An architecture, whose contradictions are those of the config.

    Raises:
        CheckpointError: Its options contradict one another.
    """
    try:
        return Architecture(**options)
    except ValueError as error:
        raise CheckpointError(f"{source}: config.json: {error}", hint="its values contradict each other") from None
