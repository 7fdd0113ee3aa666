"""Upgrade manifests of older schemas. Each step upgrades from one schema to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Content = dict[str, Any]


def upgrade(content: Content, schema: int) -> Content:
    """Upgrade a manifest to a newer schema.

    Args:
        content: The manifest as read.
        schema: The schema to upgrade to.

    Raises:
        ValueError: Its schema never existed, or the manifest is damaged.
    """
    found = content["schema"]
    while found < schema:
        step = STEPS.get(found)
        if step is None:
            raise ValueError(f"there is no schema {found}")
        try:
            content = step(content)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"it is not a manifest of schema {found}: {error!r}") from None
        found += 1
    return content | {"schema": found}


def _from_1(content: Content) -> Content:
    """Schema 2 replaces ``labels`` with a head, which names every class and says how classes are scored."""
    labels = content.get("labels", [])
    rest = {key: value for key, value in content.items() if key != "labels"}
    logits = [output for output in content["outputs"] if output["name"] == "logits"]
    if not logits:
        return rest
    return rest | {"head": {"labels": labels or [str(index) for index in range(logits[0]["shape"][-1])]}}


def _from_2(content: Content) -> Content:
    """Keys were added, each of which may be left out: origins of the preprocessing, the witness, text masks, towers."""
    return content


def _from_3(content: Content) -> Content:
    """Schema 4 seals the manifest with a digest of itself, which is checked before; schema 3 left it empty."""
    return {key: value for key, value in content.items() if key != "digest"}


STEPS: dict[int, Callable[[Content], Content]] = {1: _from_1, 2: _from_2, 3: _from_3}
