"""The key of a run: everything that decides its vectors, by name, so that a resume can say what differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

LONGEST = 48
"""Characters of a value that a message repeats; a longer one is only named."""


@dataclass(frozen=True)
class Key:
    """What the vectors of a run follow from, besides its inputs.

    Attributes:
        parts: JSON values by name; those of a mapping are named one by one in messages.
    """

    parts: Mapping[str, Any]

    def digests(self) -> dict[str, str]:
        """A short digest of every part, for an output file to carry."""
        return {name: _digest(value) for name, value in self.parts.items()}

    def differences(self, before: Mapping[str, Any]) -> list[str]:
        """What differs from the parts of an earlier run, in words; empty where nothing does."""
        return list(_differences("", before, json.loads(json.dumps(self.parts))))


def digest_of_inputs(inputs: Iterable[tuple[str, str]]) -> str:
    """A short digest of the (name, sha256) of every input of a run, in any order."""
    return _digest(sorted(map(list, set(inputs))))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _differences(name: str, before: Any, now: Any) -> Iterable[str]:
    if before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for part in dict.fromkeys([*before, *now]):
            yield from _differences(f"{name}.{part}" if name else part, before.get(part), now.get(part))
        return
    values = [json.dumps(value) for value in (before, now)]
    if max(map(len, values)) > LONGEST:
        yield name
    else:
        yield f"{name} was {values[0]}, is {values[1]}"
