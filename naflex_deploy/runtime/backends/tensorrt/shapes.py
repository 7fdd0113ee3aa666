"""The fixed shapes of an engine: resolve their symbols, and choose the profile that a pack runs in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.manifest import InputSpec, OutputSpec, Sizes
from naflex_deploy.core.pack import Pack


def symbol(dim: int | str) -> tuple[str, int]:
    """Split a dimension into symbol and summand: ``images+1`` → (``images``, 1); a number → ("", 0)."""
    found = re.fullmatch(r"([A-Za-z_]+)(?:\+(\d+))?", str(dim))
    return (found[1], int(found[2] or 0)) if found else ("", 0)


def shape_of(spec: InputSpec | OutputSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an input or output, with its symbols replaced by ``sizes``."""
    return tuple(_size(dim, sizes) for dim in spec.shape)


def _size(dim: int | str, sizes: Mapping[str, int]) -> int:
    whole, _, block = str(dim).partition("/")
    name, more = symbol(whole)
    return -(-(sizes[name] + more) // int(block or 1)) if name else int(dim)


def choose_profile(pack: Pack, profiles: Sequence[Sizes]) -> int:
    """Index of the first profile that a pack fits into.

    Args:
        pack: The pack; its tail counts too.
        profiles: The profiles, the smallest first.

    Raises:
        UsageError: The pack fits into no profile.
    """
    longest = int(np.diff(pack.offsets).max())
    for index, sizes in enumerate(profiles):
        fits = pack.tokens <= sizes["tokens"] and pack.images <= sizes["images"]
        if fits and longest <= sizes.get("row_tokens", longest):
            return index
    raise UsageError(
        f"a pack of {pack.tokens} tokens with {pack.images} images of up to {longest} tokens fits into no profile",
        hint="the engine was built for " + "; ".join(map(str, profiles)),
    )
