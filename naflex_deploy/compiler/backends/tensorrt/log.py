"""Reads TensorRT build logs, which tell what an engine does even without a GPU to load and inspect it.

At its most verbose level, the builder logs the memory of each optimization profile, and one line for each layer:

    Name: _gemm_mha_v2_myl1_22, LayerType: kgen, Inputs: [ { Name: …, Datatype: Half, … } ], … Outputs: [ … ]

A layer's name ends in ``_myl<profile>_<number>``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from naflex_deploy.core.errors import IncompatibleError

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
"""Kinds of layers that only synchronise streams and compute nothing."""
REPORT = "report this with the library's version"


@dataclass(frozen=True)
class BuiltProfile:
    """One optimization profile of an engine.

    Attributes:
        activation_bytes: Memory that a run needs besides weights, inputs and outputs.
        layers: Number of layers that the builder made of the graph.
        fused_attentions: Number of attentions in a single kernel, which keeps no scores in memory.
        datatypes: Number of layers by the data type of their first output.
        eight_bit_products: Number of the graph's products whose two factors have 8 bits.
    """

    activation_bytes: int
    layers: int = 0
    fused_attentions: int = 0
    datatypes: dict[str, int] = field(default_factory=dict)
    eight_bit_products: int = 0


@dataclass(frozen=True)
class BuildLog:
    """The contents of a build log.

    Attributes:
        profiles: The optimization profiles, in the order in which they were given.
        weights_bytes: Memory of the weights; ``None`` if the log does not state it.
        seconds: Duration of the build; ``None`` if the log does not state it.
        errors: Messages logged as errors.
    """

    profiles: tuple[BuiltProfile, ...]
    weights_bytes: int | None
    seconds: float | None
    errors: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The entries for the manifest. The duration is left out, because it differs from build to build."""
        return {"weights_bytes": self.weights_bytes, "profiles": [asdict(profile) for profile in self.profiles]}


def parse(messages: Iterable[tuple[str, str]]) -> BuildLog:
    """Read a log.

    Args:
        messages: Pairs of severity, as TensorRT names it, and text, in order.
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


def check_profiles(log: BuildLog, asked: int) -> None:
    """Refuse a log that does not tell of every optimization profile.

    Raises:
        IncompatibleError: The log states the memory of another number of profiles than were asked for.
    """
    if len(log.profiles) != asked:
        raise IncompatibleError(
            f"the library's log is not understood: expected the activation memory of {asked} optimization profiles, "
            f"found that of {len(log.profiles)}",
            hint=REPORT,
        )


def _profile(memory: int, layers: list[tuple[str, str]], products: int) -> BuiltProfile:
    fused = sum(name.startswith(FUSED_ATTENTION) for name, _ in layers)
    types = Counter(datatype for _, datatype in layers)
    return BuiltProfile(memory, len(layers), fused, dict(sorted(types.items())), products)
