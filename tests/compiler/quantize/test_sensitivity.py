"""The analysis finds the loss of each site, and keeps as few sites in float as the gate needs."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from naflex_deploy.compiler.backends.onnxruntime.lowering import runner
from naflex_deploy.compiler.quantize.heat_map import heat_map
from naflex_deploy.compiler.quantize.prepare import prepare
from naflex_deploy.compiler.quantize.sensitivity import Cost, Sensitivity, analyse, fewest, ranked
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.runtime.bundle.golden import Tolerance
from tests.support.calibrations import observed
from tests.support.graphs import GRIDS, portable
from tests.support.packs import random_images

KINDS = ("mlp.fc1", "mlp.fc2", "out", "query")
INSIDE = [f"blocks.{block}.{kind}.input" for block in (0, 1) for kind in KINDS]
SITES = [*INSIDE, "classifier.input", "embed.input", "pool.out.input", "pool.mlp.fc1.input", "pool.mlp.fc2.input"]


@cache
def spec() -> QuantSpec:
    seen = observed(portable("siglip2"), random_images(GRIDS * 2, 4, seed=5))
    return dataclasses.replace(seen, tuning_labels=("0", *[""] * (len(seen.tuning_samples) - 1)))


@cache
def found(pooled: float, tokens: float) -> Sensitivity:
    return analyse(portable("siglip2"), spec(), 0, Tolerance(pooled, tokens), runner, ("0", "1"))


@given(st.data())
def test_the_fewest_are_those_that_are_needed(data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(8)))
    needed = data.draw(st.sets(st.sampled_from(order)))
    assert fewest(order, lambda floats: needed <= floats) == needed


def test_the_worst_by_all_measures_comes_first() -> None:
    def cost(name: str, cosine: float, margin: float) -> Cost:
        return Cost(name, (name,), {"pooled_cosine_mean": 1 - cosine, "margin_error": margin})

    costs = [cost("a", 0.1, 0.1), cost("b", 0.3, 0.2), cost("c", 0.2, 0.3), cost("d", 0.4, 0.4)]
    assert [one.name for one in ranked(costs)] == ["d", "b", "c", "a"]
    labelled = {"reference_accuracy": 0.9, "accuracy": 0.7, "pooled_cosine_mean": 1.0}
    assert Cost("a", (), labelled).losses == {"cosine": 0.0, "task": pytest.approx(0.2)}


def test_every_site_kind_and_block_is_measured_alone() -> None:
    costs = {cost.name: cost for cost in found(0.5, 0.5).costs}
    parts = [f"all {kind}" for kind in KINDS] + ["block 0", "block 1", "everything"]
    assert sorted(costs) == sorted([*SITES, *parts])
    assert costs["all query"].sites == ("blocks.0.query.input", "blocks.1.query.input")
    assert set(costs["block 1"].sites) == {site for site in SITES if site.startswith("blocks.1.")}
    assert set(costs["everything"].sites) == set(SITES)
    assert set(costs["embed.input"].sites) == {"embed.input"}
    assert all(0 < cost.losses["cosine"] < 0.1 for cost in costs.values())
    assert costs["everything"].losses["cosine"] > max(costs[site].losses["cosine"] for site in SITES)
    assert all(cost.losses.keys() == {"cosine", "margin", "task"} for cost in costs.values())


def test_nothing_stays_float_where_the_gate_holds_and_everything_where_nothing_else_does() -> None:
    loose, strict = found(0.5, 0.5), found(1 - 1e-11, 0.5)
    assert (loose.float_sites, loose.missed) == ((), ())
    assert sorted(strict.float_sites) == sorted(SITES)
    assert strict.missed == ()


def test_between_them_the_gate_holds_and_needs_each_of_them() -> None:
    """The sites that are named stay float in a build."""
    every = {cost.name: cost.figures["token_cosine"] for cost in found(0.5, 0.5).costs}
    between = found(0.5, (every["everything"] + max(every[site] for site in SITES)) / 2)
    assert 0 < len(between.float_sites) < len(SITES)
    assert between.missed == ()
    assert between.kept["token_cosine"] > every["everything"]
    kept = dataclasses.replace(spec(), float_sites=between.float_sites)
    layers = prepare(portable("siglip2"), kept, "u8", 0).layers
    assert not {site.removesuffix(".input") for site in between.float_sites} & set(layers)


def test_the_picture_has_a_cell_a_site_and_frames_what_stays_float() -> None:
    one = dataclasses.replace(found(0.5, 0.5), float_sites=("blocks.1.out.input",))
    cells = ElementTree.fromstring(heat_map(one)).findall("{*}rect[@class='site']")
    losses = {cell[0].text.split(": ")[0]: float(cell[0].text.split(": ")[1]) for cell in cells}
    assert sorted(losses) == sorted(SITES)
    framed = [cell[0].text.split(":")[0] for cell in cells if "stroke" in cell.attrib]
    assert framed == ["blocks.1.out.input"]
    places = {(cell.get("x"), cell.get("y")) for cell in cells}
    assert len(places) == len(SITES)
    by_loss = sorted(cells, key=lambda cell: float(cell[0].text.split(": ")[1]))
    greens = [int(cell.get("fill").split(",")[1]) for cell in by_loss]
    assert all(left >= right for left, right in pairwise(greens))
    assert greens[-1] == 0 < greens[0]
