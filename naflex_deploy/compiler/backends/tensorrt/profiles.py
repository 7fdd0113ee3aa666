"""Optimization profiles: the shape of every input for every budget, and a check that they agree.

TensorRT takes profiles in which two inputs disagree on the number of images without a word; the engine then fails
when it runs. So shapes are derived from one set of sizes, and read back from the shapes before anything is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.manifest import InputSpec, Sizes
from naflex_deploy.core.profile import Profile
from naflex_deploy.core.rows import SEGMENT_TOKENS, rows_needed
from naflex_deploy.runtime.backends.tensorrt.shapes import shape_of, symbol


def profile_sizes(profile: Profile, backend: str, form: str, prefix: int) -> list[Sizes]:
    """Sizes of each optimization profile.

    In the segment form that is one a budget. In the rows form, budgets up to `SEGMENT_TOKENS` are one row, and
    larger ones have a profile for each length of a row: ``engine.tensorrt.l_buckets`` below the longest image,
    and the longest image. Images are laid into rows whole, see `rows_needed`: rows times length never exceed twice
    the budget by more than a row.
    """
    images = profile.packing.max_images
    sizes: list[Sizes] = []
    for tokens in profile.budgets(backend):
        base = {"tokens": tokens, "images": images}
        if form != "rows":
            sizes.append(base)
        elif tokens <= SEGMENT_TOKENS:
            sizes.append(base | {"rows": 1, "row_tokens": tokens})
        else:
            longest = min(profile.image_tokens(backend, prefix) + prefix, tokens)
            lengths = [bucket for bucket in profile.engine.tensorrt.l_buckets if bucket < longest]
            sizes += [base | {"rows": rows_needed(tokens, row), "row_tokens": row} for row in (*lengths, longest)]
    return sizes


def input_shapes(inputs: Sequence[InputSpec], sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The shape of every input."""
    return {spec.role.value: shape_of(spec, sizes) for spec in inputs}


def check_profile(inputs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]) -> Sizes:
    """Read the sizes back from shapes.

    Args:
        inputs: Of the engine.
        shapes: One for each input, by name.

    Raises:
        UsageError: An input is missing or of another rank, or two inputs disagree.
    """
    found: dict[str, tuple[int, str]] = {}
    for spec in inputs:
        name = spec.role.value
        shape = shapes.get(name)
        if shape is None or len(shape) != len(spec.shape):
            raise UsageError(
                f"optimization profile: {name}: expected {len(spec.shape)} dimensions, found {shape or 'none'}",
                hint="give every input a shape",
            )
        for dim, size in zip(spec.shape, shape, strict=True):
            of, more = symbol(dim)
            expected, where = found.setdefault(of, (size - more, name)) if of else (int(dim), "the graph")
            if size - more != expected:
                raise UsageError(
                    f"optimization profile: {of or 'a fixed dimension'} is {expected} by {where} "
                    f"and {size - more} by {name}",
                    hint="shapes of one profile have to agree",
                )
    return {of: size for of, (size, _) in found.items()}
