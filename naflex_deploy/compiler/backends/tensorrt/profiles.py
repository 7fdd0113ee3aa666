"""Makes optimization profiles, the shape of every input for every budget, and checks that the shapes agree.

TensorRT silently accepts a profile in which two inputs disagree on the number of images; the engine then fails when it
runs. So all shapes are derived from one set of sizes, and checked against each other before anything is built.
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

    Every form but rows has one profile per budget. In the rows form, budgets up to `SEGMENT_TOKENS` are a single row,
    and larger ones have a profile for each row length: ``engine.tensorrt.l_buckets`` below the longest image, and the
    longest image. No image is split across rows, see `rows_needed`, so that rows times length exceed twice the budget
    by at most one row.
    """
    images = profile.max_images(backend)
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
    """The shape of every input, by name."""
    return {spec.role.value: shape_of(spec, sizes) for spec in inputs}


def check_profile(inputs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]) -> Sizes:
    """Check that shapes agree, and return the sizes that they imply.

    Args:
        inputs: Inputs of the engine.
        shapes: The shape of each input, by name.

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
                hint="give every input a shape of that rank",
            )
        for dim, size in zip(spec.shape, shape, strict=True):
            of, more = symbol(dim)
            expected, where = found.setdefault(of, (size - more, name)) if of else (int(dim), "the graph")
            if size - more != expected:
                raise UsageError(
                    f"optimization profile: {of or 'a fixed dimension'} is {expected} in {where} "
                    f"and {size - more} in {name}",
                    hint="make the shapes of a profile agree",
                )
    return {of: size for of, (size, _) in found.items()}
