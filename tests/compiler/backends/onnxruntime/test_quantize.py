"""The int8 graph for a CPU: every layer asked for runs in 8 bits, follows its formula, and ignores other images."""

from __future__ import annotations

import collections
import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest

from naflex_deploy.compiler.backends.onnxruntime import lowering
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.passes.graphs import evaluate, every_node, read
from naflex_deploy.compiler.quantize.layers import groups, linear_layers
from naflex_deploy.compiler.quantize.prepare import default_sites, possible_sites, prepare
from naflex_deploy.compiler.quantize.quantization import PIXELS, Quantization, plain
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import CalibrationError, IncompatibleError, UsageError
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.results.figures import cosine
from tests.support.calibrations import observed
from tests.support.graphs import CASES, FAMILIES, GRIDS, pack, portable, run
from tests.support.packs import random_images

EMBED = "embed.input"
ALIKE = ("aligned corners, class token", "bicubic by gather", "factorized")
"""Their layers and sites have the names and shapes of those of others; positions are not quantised."""
DIFFERING = [pytest.param(name, marks=pytest.mark.exhaustive) if name in ALIKE else name for name in CASES]


@cache
def spec(name: str, times: int = 30) -> QuantSpec:
    """Of so many images of each grid."""
    return observed(portable(name), random_images(GRIDS * times, 4, seed=5), FAMILIES[name].prefix)


@cache
def quantization(name: str, *, embed: bool = False) -> Quantization:
    sites = default_sites(read(portable(name))) | ({EMBED} if embed else set())
    return prepare(portable(name), spec(name), "u8", FAMILIES[name].prefix, sites)


def task(name: str, folder: Path, calibration: QuantSpec | None) -> Task:
    profile = resolve("photo", environment={}).profile
    return Task(portable(name), folder, profile, "int8", FAMILIES[name].prefix, calibration=calibration)


@pytest.mark.parametrize("name", DIFFERING)
def test_every_family_stays_close(name: str) -> None:
    one = pack(name)
    wanted = run(portable(name), one)
    found = lowering.runner(portable(name), quantization(name))(one)
    worst = {output: cosine(found[output][: len(values)], values).min() for output, values in wanted.items()}
    assert all(value > (0.96 if output == "tokens" else 0.99) for output, value in worst.items()), worst
    assert any(value < 0.9999999 for value in worst.values())  # The graph is not the float one.


@pytest.mark.parametrize("embed", [False, True])
def test_every_product_asked_for_runs_in_eight_bits(embed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = portable("siglip2").parent / f"embed-{embed}"
    sites = default_sites(read(portable("siglip2"))) | ({EMBED} if embed else set())
    monkeypatch.setattr(lowering, "prepare", lambda *_, report: quantization("siglip2", embed=embed))
    variant = lowering.lower(task("siglip2", folder, spec("siglip2")))
    asked = 2 * 6 + embed
    assert variant.name == "onnxruntime-cpu-int8"
    assert variant.build["int8_products"] == {"asked": asked, "running": {"MatMulIntegerToFloat": asked}}
    graph = onnx.load(str(portable("siglip2").parent / variant.model), load_external_data=False)
    counted = collections.Counter(node.op_type for node in every_node(graph.graph))
    # There is one per tensor, shared by query, key and value; pixels need none.
    assert counted["QuantizeLinear"] == len(sites) - embed == 2 * 4
    assert counted["DequantizeLinear"] == 0
    stored = [tensor for tensor in graph.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert len(stored) == asked
    by_name = {one["pass"]: one["changed"] for one in variant.passes}
    assert by_name["quantize"] == asked
    assert by_name["centre"] == 4 + embed
    assert by_name["merge_positions"] == (not embed)


@pytest.mark.parametrize("name", DIFFERING)
def test_what_may_be_quantised_outside_of_blocks_runs_in_eight_bits_too(name: str) -> None:
    folder = portable(name).parent / "all"
    model = read(portable(name))
    calibration = dataclasses.replace(spec(name), float_sites=())
    variant = lowering.lower(task(name, folder, calibration))
    asked = sum(len(group.layers) for group in groups(model) if group.site in possible_sites(model))
    assert variant.build["int8_products"]["asked"] == asked > sum("blocks." in layer for layer in linear_layers(model))
    assert sum(variant.build["int8_products"]["running"].values()) == asked


def test_fewer_products_than_asked_for_fail_the_build(tmp_path: Path) -> None:
    model, _ = lowering.lowered(portable("siglip2"), quantization("siglip2"))
    path = portable("siglip2").parent / "counted.onnx"
    lowering.write(model, path, path.parent)
    assert lowering.integer_products(path, path.parent, 12)
    with pytest.raises(IncompatibleError, match="runs 12 of 13 quantised products in eight bits"):
        lowering.integer_products(path, path.parent, 13)


def test_a_layer_computes_its_formula() -> None:
    """With all else in float, the tokens of a layer are those of the float graph with its weights replaced."""
    name = "siglip2"
    one, wanted = pack(name), quantization(name, embed=True)
    for layer in ("embed", "blocks.1.mlp.fc2"):
        only = Quantization({layer: wanted.layers[layer]}, wanted.smoothings, wanted.centred)
        found = lowering.runner(portable(name), only)(one)
        model = read(portable(name))
        only.prepare(model)
        linear = linear_layers(model)[layer]
        x = _computed(model, linear.x.name, one)
        y = wanted.layers[layer].levels.nearest(x) @ wanted.layers[layer].weight.dequantized + wanted.layers[layer].bias
        assert np.abs(y - (x @ linear.weight + linear.bias)).max() > 1e-5
        again = _computed(model, "tokens", one, {linear.y.name: y})
        wrong = np.abs(found["tokens"] - again)[: one.useful_tokens].max()
        assert wrong <= 2e-5 * np.abs(again).max(), layer


def _computed(model: lowering.Model, name: str, one: Pack, given: dict[str, np.ndarray] | None = None) -> np.ndarray:
    """A tensor of a float graph, others given."""
    named = model.graph.tensors()
    feeds = [(tensor, one.view(tensor.name)) for tensor in model.graph.inputs]
    feeds += [(named[key], values) for key, values in (given or {}).items()]
    return np.asarray(evaluate(named[name], feeds, 20))


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    name = "siglip2"
    infer = lowering.runner(portable(name), quantization(name, embed=True))
    images = random_images(GRIDS, 4, seed=1)
    together = infer(pack_of(images, tail=7))
    backwards = infer(pack_of(images[::-1]))
    for index, image in enumerate(images):
        alone = infer(pack_of([image]))["pooled"][0]
        for found in (together["pooled"][index], backwards["pooled"][len(images) - 1 - index]):
            assert cosine(found[None], alone[None])[0] >= 0.9999


def pack_of(images: list, tail: int = 0) -> Pack:
    return Pack.of(images, tokens=sum(map(len, images)) + tail)


def test_pixels_lose_nothing_but_their_weights_precision() -> None:
    assert quantization("siglip2", embed=True).layers["embed"].levels == PIXELS


@pytest.mark.parametrize("times", [3, 30])
@pytest.mark.parametrize("name", ["siglip2", "large table by gather", "rope mixed, gates"])
def test_other_images_come_out_closer_than_by_plain_ranges(name: str, times: int) -> None:
    """Calibrated on few images, too: what fits these alone is not taken."""
    model, calibration = read(portable(name)), spec(name, times)
    seen = {site: calibration.sites[site] for site in default_sites(model)}
    ways = (
        plain(model, {site: (min(one.low, 0), max(one.high, 0)) for site, one in seen.items()}, "u8"),
        quantization(name) if times == 30 else prepare(portable(name), calibration, "u8", FAMILIES[name].prefix),
    )
    one = Pack.of(random_images(GRIDS * 5, 4, seed=6), prefix=FAMILIES[name].prefix)
    wanted = run(portable(name), one)["tokens"]
    rough, ours = (np.square(lowering.runner(portable(name), way)(one)["tokens"] - wanted).sum() for way in ways)
    assert ours < rough


def test_without_a_calibration_the_message_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="precision int8 needs a calibration, found none") as caught:
        lowering.lower(task("siglip2", tmp_path / "variants", None))
    assert "naflex-deploy calibrate --profile photo --model SPEC --images DIR" in caught.value.hint


def test_a_calibration_of_another_graph_is_refused() -> None:
    seen = spec("siglip2")
    other = QuantSpec({}, "percentile", 0, (), dict(list(seen.sites.items())[:3]), (), seen.tuning_samples)
    with pytest.raises(CalibrationError, match=r"the calibration has no observation of blocks\.0"):
        prepare(portable("siglip2"), other, "u8", 0)


def test_sites_of_a_sensitivity_analysis_stay_float() -> None:
    kept = dataclasses.replace(spec("siglip2"), float_sites=("blocks.0.query.input", "blocks.1.mlp.fc2.input"))
    layers = prepare(portable("siglip2"), kept, "u8", 0).layers
    everything = {name for group in groups(read(portable("siglip2"))) for name in group.layers if "blocks." in name}
    assert everything - set(layers) == {"blocks.0.query", "blocks.0.key", "blocks.0.value", "blocks.1.mlp.fc2"}
    assert set(layers) - everything == {"embed", "pool.out", "pool.mlp.fc1", "pool.mlp.fc2", "classifier"}
    nothing = dataclasses.replace(kept, float_sites=tuple(possible_sites(read(portable("siglip2")))))
    with pytest.raises(CalibrationError, match="leaves nothing to quantise"):
        prepare(portable("siglip2"), nothing, "u8", 0)
