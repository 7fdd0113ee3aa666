"""Values of JSON files, checked: what is of another type is refused by its name and value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from naflex_deploy.core.errors import CheckpointError


@dataclass(frozen=True)
class Values:
    """The values of one object of a JSON file.

    Attributes:
        values: By name.
        source: The checkpoint, for messages.
        place: File, and the object in it, as ``processor_config.json: image_processor``.
        library: Whose default stands in for what is left out, as ``Siglip2ImageProcessor``.
    """

    values: Mapping[str, Any]
    source: str
    place: str
    library: str

    def stated(self, name: str) -> bool:
        """Whether the file gives the value, be it ``null``."""
        return name in self.values

    def origin(self, *names: str) -> str:
        """Where values came from: the names that the file gives, or whose default stands in for them."""
        found = [name for name in names if self.stated(name)]
        return f"{self.place}: {', '.join(found)}" if found else f"default of {self.library}"

    def flag(self, name: str, default: bool) -> bool:
        """A boolean.

        Raises:
            CheckpointError: It is of another type.
        """
        value = self.values[name] if self.stated(name) else default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def number(self, name: str, default: float) -> float:
        """A positive number.

        Raises:
            CheckpointError: It is of another type, or not positive.
        """
        value = self.values[name] if self.stated(name) else default
        if not _is_number(value) or value <= 0:
            raise self.wrong(name, "a positive number")
        return float(value)

    def integer(self, name: str, default: int) -> int:
        """A positive integer.

        Raises:
            CheckpointError: It is of another type, or not positive.
        """
        value = self.values[name] if self.stated(name) else default
        if type(value) is not int or value < 1:
            raise self.wrong(name, "a positive integer")
        return value

    def square(self, name: str, default: int) -> int:
        """A positive integer, or two equal ones: the side of a square.

        Raises:
            CheckpointError: It is of another type, or the sides differ.
        """
        value = self.values.get(name, default)
        sides = value if isinstance(value, list | tuple) else [value, value]
        if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides) or sides[0] != sides[1]:
            raise self.wrong(name, "a positive integer, or two equal ones")
        return int(sides[0])

    def per_channel(self, name: str, default: tuple[float, ...], channels: int) -> tuple[float, ...]:
        """One number a channel. One number, or a list of one, stands for every channel.

        Raises:
            CheckpointError: It is of another type or length.
        """
        value = self.values[name] if self.stated(name) else default
        listed = [value] if _is_number(value) else value
        if not isinstance(listed, list | tuple) or not all(_is_number(number) for number in listed):
            raise self.wrong(name, f"a number, or {channels} of them")
        if len(listed) not in (1, channels):
            if len(set(listed)) > 1 or channels != 1:
                raise self.wrong(name, f"a number, or {channels} of them")
            listed = listed[:1]
        return tuple(float(number) for number in (listed * channels if len(listed) == 1 else listed))

    def wrong(self, name: str, expected: str) -> CheckpointError:
        """The error for a value."""
        return CheckpointError(
            f"{self.source}: {self.place}: {name} = {self.values.get(name)!r} is not supported",
            hint=f"expected {expected}",
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
