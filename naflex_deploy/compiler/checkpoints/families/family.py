"""What the reader must know of a family of vision-language models to read its image tower."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from naflex_deploy.compiler.checkpoints.tensors import bare_name
from naflex_deploy.compiler.model.architecture import Architecture
from naflex_deploy.core.errors import CheckpointError

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """A family of models whose image tower is read, with the projector to the language model.

    Attributes:
        title: Name of the family, as its makers write it.
        model_types: Values of ``model_type`` in its ``config.json``.
        names: Name of a stored module → ours, from the part of the model that holds it. A ``*`` stands for a number,
            which ours repeats, and ``**`` for the rest of any name; an empty name of ours means that the model does
            not need it. Tensors of modules that no name stands for belong to other parts of the model, unless they lie
            beside one that was read.
        architecture: The architecture by the whole config, the names of the stored tensors in our terms, and the
            source for messages.
        paired_rope: Rotary pairs are neighbouring channels, and the angles of column and row alternate.
        note: What else a person should know of its outputs.
        part: Name of the object in the config that describes tower and language model, where it is not the config.
    """

    title: str
    model_types: tuple[str, ...]
    names: Mapping[str, str]
    architecture: Callable[[Config, frozenset[str], str], Architecture]
    paired_rope: bool = False
    note: str = ""
    part: str = ""

    @cached_property
    def _patterns(self) -> tuple[tuple[re.Pattern[str], str], ...]:
        # What stands before holds no number, so that a part is never found inside a block of the language model.
        return tuple(
            (re.compile(rf"((?:[A-Za-z_]+\.)*?){_expression(theirs)}(\.weight|\.bias)?"), ours)
            for theirs, ours in self.names.items()
        )

    @cached_property
    def _part(self) -> re.Pattern[str]:
        parts = "|".join(sorted({re.escape(theirs.partition(".")[0]) for theirs in self.names}))
        return re.compile(rf"(?:[A-Za-z_]+\.)*?(?:{parts})\..+")

    def described(self, config: Config) -> Config:
        """What a config says of tower and language model, with the type of the whole."""
        part = config.get(self.part)
        return {**part, "model_type": config["model_type"]} if isinstance(part, Mapping) else config

    def wants(self, stored: str) -> bool:
        """Whether a stored tensor belongs to the tower or its projector."""
        return self._part.fullmatch(bare_name(stored)) is not None

    def translate(self, stored: Iterable[str], source: str) -> dict[str, str]:
        """Our name of each stored tensor that `wants` names, "" for those that the model does not need.

        Raises:
            CheckpointError: A name is unknown, two tensors have one name, or there is no tower.
        """
        named = {name: self._ours(name, source) for name in sorted(stored)}
        places = {place: name for name, (place, _) in named.items()}
        if len(places) > 1:
            first, second, *_ = places.values()
            raise CheckpointError(
                f"{source}: '{first}' and '{second}' are of two image towers", hint="save the one that you mean alone"
            )
        found: dict[str, str] = {}
        for name, (_, ours) in named.items():
            if ours and ours in found.values():
                twice = next(key for key, value in found.items() if value == ours)
                raise CheckpointError(
                    f"{source}: '{twice}' and '{name}' are the same tensor of {self.title}",
                    hint="the file holds the model in two layouts: save it again",
                )
            found[name] = ours
        if "embed.weight" not in found.values():
            raise CheckpointError(
                f"{source}: config.json says {self.title}, and no file holds an image tower of it",
                hint="the checkpoint holds the language model alone, or parts of it are missing",
            )
        return found

    def stored(self, ours: str) -> str:
        """The name under which a tensor that is missing would be stored."""
        for theirs, pattern in self.names.items():
            if pattern and (match := re.fullmatch(rf"{_expression(pattern)}(\.weight|\.bias)?", ours)):
                *numbers, kind = match.groups()
                for number in numbers:
                    theirs = theirs.replace("*", number, 1)
                return f"{theirs}{kind or ''}"
        return ours

    def _ours(self, name: str, source: str) -> tuple[str, str]:
        """What stands before the part that holds a tensor, and our name of the tensor."""
        for pattern, ours in self._patterns:
            if match := pattern.fullmatch(name):
                before, *numbers, kind = match.groups()
                for number in numbers:
                    ours = ours.replace("*", number, 1)
                return before, ours if not ours or ours.endswith(TENSORS) else f"{ours}{kind or ''}"
        raise CheckpointError(
            f"{source}: unexpected tensor '{name}'",
            hint=f"this {self.title} has a part that is unknown here: its result would be wrong without that tensor",
        )


TENSORS = ("table", "probe", "_weight", "_bias")
"""Ends of our names that are of tensors, not of modules."""


def below(parts: Iterable[str], names: Mapping[str, str]) -> dict[str, str]:
    """Names below each of several places."""
    return {f"{part}.{theirs}": ours for part in parts for theirs, ours in names.items()}


def blocks(place: str, norms: Sequence[str], attention: Sequence[str], mlp: Sequence[str]) -> dict[str, str]:
    """Names of the modules of each transformer block.

    Args:
        place: Of the list of blocks.
        norms: The one before attention, and the one before the MLP.
        attention: Queries, keys, values and the output, or the first three stacked and the output.
        mlp: Its two layers.
    """
    projections = ("qkv", "out") if len(attention) == 2 else ("query", "key", "value", "out")
    ours = ("norm1", *projections, "norm2", "mlp.fc1", "mlp.fc2")
    theirs = (norms[0], *attention, norms[1], *mlp)
    return {f"{place}.*.{name}": f"blocks.*.{own}" for name, own in zip(theirs, ours, strict=True)}


def layers(first: str, second: str, norm: str = "", ours: str = "projector") -> dict[str, str]:
    """Names of the two layers of a projector, and of its norm where it has one."""
    norms = {norm: f"{ours}.norm"} if norm else {}
    return {**norms, first: f"{ours}.fc1", second: f"{ours}.fc2"}


def _expression(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", r"(\d+)")
