"""Describes the observed images, and judges whether they are enough."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from naflex_deploy.compiler.quantize.images import Sample
from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.packing.packer import smallest_budget

LEAST_IMAGES = 16
"""Fewest images to observe; with fewer, single images would determine the ranges."""

LEAST_GATE_IMAGES = 4


@dataclass(frozen=True)
class Record:
    """The facts kept about an image file.

    Attributes:
        path, stamp, digest, size, one_colour: As in `Sample`.
        grids: (rows, columns) of patches for each image that the file becomes.
        gate: Whether the file is held out for the gate instead of being observed.
    """

    path: str
    stamp: tuple[int, int]
    digest: str
    size: tuple[int, int]
    grids: tuple[tuple[int, int], ...]
    one_colour: bool
    gate: bool

    @classmethod
    def of(cls, sample: Sample, *, gate: bool) -> Record:
        grids = tuple(image.grid_hw for image in sample.images)
        return cls(sample.path, sample.stamp, sample.digest, sample.size, grids, sample.one_colour, gate)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Record:
        grids = tuple((int(h), int(w)) for h, w in values["grids"])
        return cls(**values | {"stamp": tuple(values["stamp"]), "size": tuple(values["size"]), "grids": grids})


def check_count(found: int, folder: object, profile: Profile) -> None:
    """Refuse a directory that cannot give enough images, or a profile that asks for too few.

    Raises:
        UsageError: There are too few, with the number needed.
    """
    if (samples := profile.calibration.samples) < LEAST_IMAGES:
        raise UsageError(
            f"calibration.samples: expected at least {LEAST_IMAGES}, found {samples}", hint="256 is a good number"
        )
    if found < LEAST_IMAGES + LEAST_GATE_IMAGES:
        raise UsageError(
            f"{folder}: expected at least {LEAST_IMAGES + LEAST_GATE_IMAGES} different images that can be read, "
            f"{LEAST_IMAGES} to observe and {LEAST_GATE_IMAGES} to measure on, found {found}",
            hint="add images of the kind that will be served",
        )


def check(records: Sequence[Record], folder: object, profile: Profile) -> None:
    """Refuse images that are not representative of those to be served.

    Raises:
        UsageError: They are too few, have one colour, or have one size although the profile has several budgets.
    """
    check_count(len(records), folder, profile)
    observed = [record for record in records if not record.gate]
    shown = sum(not record.one_colour for record in observed)
    if shown < LEAST_IMAGES:
        raise UsageError(
            f"{folder}: expected at least {LEAST_IMAGES} images of more than one colour, "
            f"found {shown} of {len(observed)}",
            hint="add images of the kind that will be served",
        )
    grids = {grid for record in observed for grid in record.grids}
    budgets = profile.packing.budgets
    if len(grids) == 1 and len(budgets) > 1:
        ((h, w),) = grids
        raise UsageError(
            f"{folder}: expected images of several sizes, as profile '{profile.name}' has {len(budgets)} budgets, "
            f"found one size, {w}x{h} patches",
            hint=f"add images of other sizes; if none is ever served, --set packing.budgets=[{budgets[-1]}]",
        )


def figures(records: Sequence[Record], profile: Profile, prefix: int) -> dict[str, Any]:
    """Counts and extremes of the observed images, as JSON values.

    ``budgets`` counts, for each budget that a single image can need, the images that need it.
    """
    observed = [record for record in records if not record.gate]
    tokens = sorted(h * w for record in observed for h, w in record.grids)
    by_area = sorted((record.size for record in observed), key=lambda size: (size[0] * size[1], size))
    needed = Counter(smallest_budget(count + prefix, profile.budgets("onnxruntime")) for count in tokens)
    return {
        "files": len(observed),
        "gate_files": len(records) - len(observed),
        "images": len(tokens),
        "one_colour": sum(record.one_colour for record in observed),
        "tokens": {"least": tokens[0], "median": tokens[len(tokens) // 2], "most": tokens[-1], "all": sum(tokens)},
        "grids": len({grid for record in observed for grid in record.grids}),
        "smallest": list(by_area[0]),
        "largest": list(by_area[-1]),
        "budgets": {str(budget): needed[budget] for budget in _needed_budgets(profile, prefix)},
    }


def gaps(found: dict[str, Any], samples: int, profile: Profile) -> list[str]:
    """Sentences on what is missing from the observed images."""
    lines = []
    if found["files"] < samples:
        lines.append(f"asked for {samples} images, found {found['files']}")
    if found["one_colour"]:
        lines.append(f"{found['one_colour']} of {found['files']} images are of one colour")
    below = 0
    for budget, images in found["budgets"].items():
        if not images:
            lines.append(f"no image has {below + 1} to {budget} tokens, which profile '{profile.name}' serves")
        below = int(budget)
    return lines


def _needed_budgets(profile: Profile, prefix: int) -> list[int]:
    """The budgets that a single image can need; larger ones only hold several images."""
    budgets = profile.budgets("onnxruntime")
    most = profile.image_tokens("onnxruntime", prefix) + prefix
    return [budget for budget, below in zip(budgets, (0, *budgets), strict=False) if below < most]
