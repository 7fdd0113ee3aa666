"""Reading manifests of older schemas: one step a schema, each from the one before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Content = dict[str, Any]


def upgrade(content: Content, schema: int) -> Content:
    """A manifest as the newest schema has it.

    Args:
        content: As read.
        schema: The newest.

    Raises:
        ValueError: It is of no schema that was ever written, or damaged.
    """
    found = content["schema"]
    while found < schema:
        step = STEPS.get(found)
        if step is None:
            raise ValueError(f"there is no schema {found}")
        try:
            content = step(content)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"it is no manifest of schema {found}: {error!r}") from None
        found += 1
    return content | {"schema": found}


def _from_1(content: Content) -> Content:
    """Names of classes became part of a head, which names every class and says how they are scored."""
    labels = content.get("labels", [])
    rest = {key: value for key, value in content.items() if key != "labels"}
    logits = [output for output in content["outputs"] if output["name"] == "logits"]
    if not logits:
        return rest
    return rest | {"head": {"labels": labels or [str(index) for index in range(logits[0]["shape"][-1])]}}


STEPS: dict[int, Callable[[Content], Content]] = {1: _from_1}
