"""Reads TensorRT build logs, which tell what an engine does even without a GPU to load and inspect it.

At its most verbose level, the builder logs the memory of each optimization profile, and one line for each layer:

    Name: _gemm_mha_v2_myl1_22, LayerType: kgen, Inputs: [ { Name: …, Datatype: Half, … } ], … Outputs: [ … ]

A layer's name ends in ``_myl<region>_<number>``. Regions are counted through the whole engine, together with the nodes
that TensorRT keeps outside them, so that the number of a region is not that of its profile. From the second profile on,
tensors of the graph are named ``… [profile <profile>]``, and every region reads one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from naflex_deploy.core.errors import IncompatibleError

LAYER = re.compile(r"^ ?Name: (?P<name>.*?), LayerType: (?P<kind>\w+), (?P<rest>.*)$")
REGION = re.compile(r"_myl(\d+)_\d+$")
PROFILE = re.compile(r"\[profile (\d+)\]")
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
    regions: dict[str, list[re.Match[str]]] = {}
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
        for layer in filter(None, map(LAYER.match, text.splitlines())):
            if layer["kind"] not in BETWEEN_STREAMS:
                region = REGION.search(layer["name"])
                regions.setdefault(region[1] if region else layer["name"], []).append(layer)
    layers: dict[int, list[re.Match[str]]] = {}
    for own in regions.values():
        layers.setdefault(_profile_of(own), []).extend(own)
    profiles = [_profile(memory, layers.get(index, [])) for index, memory in enumerate(activations)]
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


def _profile_of(region: list[re.Match[str]]) -> int:
    """The profile that the layers of a region belong to; names of the first profile bear no mark."""
    return next((int(mark[1]) for layer in region if (mark := PROFILE.search(layer[0]))), 0)


def _profile(memory: int, layers: list[re.Match[str]]) -> BuiltProfile:
    fused = sum(layer["name"].startswith(FUSED_ATTENTION) for layer in layers)
    types: Counter[str] = Counter()
    products = 0
    for layer in layers:
        taken, _, made = layer["rest"].partition("Outputs: ")
        types[next(iter(DATATYPE.findall(made)), "none")] += 1
        if sum(datatype in EIGHT_BITS for datatype in DATATYPE.findall(taken)) == 2:
            products += len(set(PRODUCT.findall(layer["rest"])))
    return BuiltProfile(memory, len(layers), fused, dict(sorted(types.items())), products)
