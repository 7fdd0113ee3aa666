"""Reading a TensorRT build log: what an engine will do, told by its builder, since nothing can be asked without a GPU.

The builder logs, at its most verbose, the memory of each optimization profile and one line for each layer it made:

    Name: _gemm_mha_v2_myl1_22, LayerType: kgen, Inputs: [ { Name: …, Datatype: Half, … } ], … Outputs: [ … ]

A layer's name ends in ``_myl<profile>_<number>``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

LAYER = re.compile(r"^ ?Name: (?P<name>.*?), LayerType: (?P<kind>\w+), (?P<rest>.*)$")
PROFILE = re.compile(r"_myl(\d+)_\d+$")
DATATYPE = re.compile(r"Datatype: (\w+)")
PRODUCT = re.compile(r"\[ONNX Layer: ([^]]*/Gemm)\]")
ACTIVATIONS = re.compile(r"Total Activation Memory: (\d+) bytes")
WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
SECONDS = re.compile(r"Engine generation completed in ([\d.]+) seconds")
FUSED_ATTENTION = "_gemm_mha"
EIGHT_BITS = ("Int8", "FP8")
BETWEEN_STREAMS = ("signal", "wait")
"""Kinds of layers that compute nothing."""


@dataclass(frozen=True)
class BuiltProfile:
    """One optimization profile of an engine.

    Attributes:
        activation_bytes: Memory that a run takes beside weights, inputs and outputs.
        layers: How many the builder made of the graph.
        fused_attentions: Of these, attentions in one kernel, without their scores in memory.
        datatypes: Layers by the type of what they return.
        eight_bit_products: Products of the graph whose two factors are of eight bits.
    """

    activation_bytes: int
    layers: int = 0
    fused_attentions: int = 0
    datatypes: dict[str, int] = field(default_factory=dict)
    eight_bit_products: int = 0


@dataclass(frozen=True)
class BuildLog:
    """What a log told.

    Attributes:
        profiles: In the order they were given.
        weights_bytes, seconds: As the builder names them; ``None`` where it does not.
        errors: Messages of that severity.
    """

    profiles: tuple[BuiltProfile, ...]
    weights_bytes: int | None
    seconds: float | None
    errors: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """For the manifest. The time is left out: it differs from build to build."""
        return {"weights_bytes": self.weights_bytes, "profiles": [asdict(profile) for profile in self.profiles]}


def parse(messages: Iterable[tuple[str, str]]) -> BuildLog:
    """Read a log.

    Args:
        messages: (severity, text) in order; severities as TensorRT names them.
    """
    activations: list[int] = []
    layers: dict[int, list[tuple[str, str]]] = {}
    products: Counter[int] = Counter()
    weights, seconds = None, None
    errors = []
    for severity, text in messages:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            errors.append(text)
        if found := ACTIVATIONS.search(text):
            activations.append(int(found[1]))
        if found := WEIGHTS.search(text):
            weights = int(found[1])
        if found := SECONDS.search(text):
            seconds = float(found[1])
        for line in text.splitlines():
            layer = LAYER.match(line)
            if layer and layer["kind"] not in BETWEEN_STREAMS:
                number = PROFILE.search(layer["name"])
                profile = int(number[1]) if number else 0
                taken, _, made = layer["rest"].partition("Outputs: ")
                returned = DATATYPE.findall(made)
                layers.setdefault(profile, []).append((layer["name"], returned[0] if returned else "none"))
                if sum(datatype in EIGHT_BITS for datatype in DATATYPE.findall(taken)) == 2:
                    products[profile] += len(set(PRODUCT.findall(layer["rest"])))
    profiles = [_profile(memory, layers.get(index, []), products[index]) for index, memory in enumerate(activations)]
    return BuildLog(tuple(profiles), weights, seconds, tuple(errors))


def _profile(memory: int, layers: list[tuple[str, str]], products: int) -> BuiltProfile:
    fused = sum(name.startswith(FUSED_ATTENTION) for name, _ in layers)
    types = Counter(datatype for _, datatype in layers)
    return BuiltProfile(memory, len(layers), fused, dict(sorted(types.items())), products)
