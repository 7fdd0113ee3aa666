"""A calibration: the observations of activations, which serve a build for any target.

Sites are named by their role. The input of the linear layer ``blocks.3.mlp.fc1`` is ``blocks.3.mlp.fc1.input``; layers
that read the same tensor (query, key and value of a block) share an observation, which has a name for each of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from naflex_deploy.compiler.quantize.arrays import decode, encode
from naflex_deploy.compiler.quantize.observation import BINS, SiteObservation
from naflex_deploy.compiler.quantize.subject import Values, differences
from naflex_deploy.core.errors import CalibrationError
from naflex_deploy.core.files import new_file
from naflex_deploy.core.locks import Lock
from naflex_deploy.core.pack import Patches
from naflex_deploy.core.profile import Method

SCHEMA = 1

_MAKE_ONE = "make one with `naflex-deploy calibrate --profile NAME --model SPEC --images DIR -o calibration.json`"
_AGAIN = "copy it again, or calibrate again"


@dataclass(frozen=True, eq=False)
class QuantSpec:
    """A calibration of one model under one profile.

    Attributes:
        subject: The model and preprocessing that the calibration applies to, see the module `subject`.
        method: Method that derives ranges from histograms; `dataclasses.replace` can exchange it.
        seed: Seed for the choice of images.
        samples: SHA-256 of each image file that was observed, in the order of observation.
        sites: Observations by site, in the order of the graph; every name of a site has the same object.
        gate_samples: Images that were not observed, prepared as at runtime, on which engines are measured.
        tuning_samples: Some of the images that were observed, for searches that need activations.
        gate_labels, tuning_labels: Class name of each of these images, if classes were given.
        float_sites: Sites that a sensitivity analysis found to need float; ``None`` if there was no analysis.
        coverage: Figures that describe the images.
        origin: What was asked for and which images were read, see the module `request`; empty in older files.
    """

    subject: Values
    method: Method
    seed: int
    samples: tuple[str, ...]
    sites: Mapping[str, SiteObservation]
    gate_samples: tuple[Patches, ...] = ()
    tuning_samples: tuple[Patches, ...] = ()
    gate_labels: tuple[str, ...] = ()
    tuning_labels: tuple[str, ...] = ()
    float_sites: tuple[str, ...] | None = None
    coverage: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """SHA-256 of everything that determines the observations and ranges."""
        values = {"subject": self.subject, "method": self.method, "seed": self.seed, "samples": list(self.samples)}
        return _digest(values)

    @property
    def groups(self) -> dict[tuple[str, ...], SiteObservation]:
        """The observations, each once, by all names of its site."""
        names: dict[int, list[str]] = {}
        for name, seen in self.sites.items():
            names.setdefault(id(seen), []).append(name)
        return {tuple(group): self.sites[group[0]] for group in names.values()}

    def check(self, subject: Values) -> None:
        """Refuse a subject that this calibration was not made for.

        Raises:
            CalibrationError: The subjects differ; names every difference.
        """
        if found := differences(subject, self.subject):
            raise CalibrationError(
                f"the calibration was made for something else: {'; '.join(found)}",
                hint="calibrate again with this model and profile, or build the model that it was made for",
            )

    def write(self, path: Path, lock: Lock | None = None) -> None:
        """Write the file. The same calibration always gives the same bytes.

        Args:
            path: Of the file.
            lock: See `new_file`.

        Raises:
            OutputError: The file cannot be written.
        """
        content = {
            "schema": SCHEMA,
            "key": self.key,
            "subject": self.subject,
            "method": self.method,
            "seed": self.seed,
            "coverage": self.coverage,
            "origin": self.origin,
            "samples": list(self.samples),
            "float_sites": None if self.float_sites is None else list(self.float_sites),
            "sites": [{"names": list(names), **_site_to_json(seen)} for names, seen in self.groups.items()],
            "gate_samples": [_patches_to_json(image) for image in self.gate_samples],
            "gate_labels": list(self.gate_labels),
            "tuning_samples": [_patches_to_json(image) for image in self.tuning_samples],
            "tuning_labels": list(self.tuning_labels),
        }
        with new_file(path, lock) as partial:
            partial.write_text(json.dumps(content | {"sha256": _digest(content)}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> QuantSpec:
        """Read a file.

        Raises:
            CalibrationError: The file is missing, damaged, or has a newer schema.
        """
        content = _read_json(path)
        schema = content.get("schema")
        if isinstance(schema, int) and schema > SCHEMA:
            raise CalibrationError(
                f"{path} has calibration schema {schema}, expected at most {SCHEMA}",
                hint="upgrade: pip install --upgrade naflex-deploy",
            )
        recorded = content.pop("sha256", None)
        if recorded != _digest(content):
            found = "another" if recorded else "none"
            raise CalibrationError(f"{path} is damaged: expected the sha256 of its content, found {found}", hint=_AGAIN)
        try:
            spec = cls(
                subject=dict(content["subject"]),
                method=_method(content["method"]),
                seed=int(content["seed"]),
                samples=tuple(map(str, content["samples"])),
                sites={
                    str(name): observation
                    for site in content["sites"]
                    for observation in (_site_from_json(site),)
                    for name in site["names"]
                },
                gate_samples=tuple(map(_patches_from_json, content["gate_samples"])),
                tuning_samples=tuple(map(_patches_from_json, content["tuning_samples"])),
                gate_labels=tuple(map(str, content["gate_labels"])),
                tuning_labels=tuple(map(str, content["tuning_labels"])),
                float_sites=None if content["float_sites"] is None else tuple(map(str, content["float_sites"])),
                coverage=dict(content["coverage"]),
                origin=dict(content.get("origin", {})),
            )
            if spec.key != content["key"]:
                raise ValueError("its key does not match its content")
        except Exception as error:  # A file that was edited, or written by another tool, can hold anything.
            raise CalibrationError(f"{path} is damaged: {error!r}", hint=_AGAIN) from None
        return spec


def numbered(labels: Sequence[str], names: Sequence[str]) -> list[int]:
    """The index of each label in ``names``; -1 for a label that is not among them."""
    return [names.index(label) if label in names else -1 for label in labels]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CalibrationError(f"{path}: no such file, expected a calibration", hint=_MAKE_ONE) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CalibrationError(f"{path} is not a calibration: {error}", hint=_AGAIN) from None
    if not isinstance(content, dict) or "sites" not in content:
        raise CalibrationError(f"{path} is not a calibration: expected sites, found none", hint=_MAKE_ONE)
    return content


def _digest(values: object) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _method(value: object) -> Method:
    if value not in get_args(Method):
        raise ValueError(f"expected one of {', '.join(get_args(Method))}, found method {value}")
    return value  # type: ignore[return-value]


def _site_to_json(seen: SiteObservation) -> dict[str, object]:
    return {
        "low": seen.low,
        "high": seen.high,
        "limit": seen.limit,
        "counts": encode(seen.counts),
        "channel_low": encode(seen.channel_low),
        "channel_high": encode(seen.channel_high),
    }


def _site_from_json(content: dict[str, Any]) -> SiteObservation:
    counts = decode(content["counts"], "int64", 1)
    low, high = (decode(content[name], "float32", 1) for name in ("channel_low", "channel_high"))
    if counts.shape != (BINS,) or low.shape != high.shape or not len(low):
        raise ValueError(f"site {content['names']}: {len(counts)} bins, {len(low)} and {len(high)} channels")
    return SiteObservation(float(content["limit"]), counts, low, high)


def _patches_to_json(image: Patches) -> dict[str, object]:
    return {"grid_hw": list(image.grid_hw), "pixels": encode(image.pixels)}


def _patches_from_json(content: dict[str, Any]) -> Patches:
    height, width = (int(side) for side in content["grid_hw"])
    pixels = decode(content["pixels"], "uint8", 2)
    return Patches(np.asarray(pixels, np.uint8), (height, width))
