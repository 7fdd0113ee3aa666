"""Runs passes in a declared order, and records what each one changed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_graphsurgeon as gs

from naflex_deploy.compiler.passes import (
    centre_pixels,
    fold_probe,
    fuse_attention,
    fuse_positions,
    merge_qkv,
    split_gemm,
    split_qkv,
)
from naflex_deploy.compiler.passes.graphs import Model
from naflex_deploy.core.errors import NaflexError


@dataclass(frozen=True)
class Pass:
    """One rewrite of a graph.

    Attributes:
        name: Name of the pass in the manifest.
        match: Yields the candidates.
        check: Returns what `rewrite` needs, or the reason why a candidate does not match.
        rewrite: Replaces the subgraph, and returns the name of the node that replaced it.
    """

    name: str
    match: Callable[[Model], Iterator[gs.Node]]
    check: Callable[[Model, gs.Node], Any | str]
    rewrite: Callable[[Model, Any], str]


_MODULES = (split_gemm, centre_pixels, split_qkv, merge_qkv, fuse_positions, fuse_attention, fold_probe)
PASSES = {
    name: Pass(name, module.match, module.check, module.rewrite)
    for name, module in ((module.__name__.rpartition(".")[2], module) for module in _MODULES)
}

PORTABLE = ("split_gemm", "centre_pixels", "fuse_positions", "fuse_attention")
"""The passes that every target starts with."""


@dataclass(frozen=True)
class Applied:
    """The outcome of a pass.

    Attributes:
        name: Name of the pass.
        changed: Names of the nodes that it created.
        refused: The reason for each candidate that it left unchanged, by name.
    """

    name: str
    changed: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The entry for the manifest: how many subgraphs were rewritten, and why others were refused."""
        return {"pass": self.name, "changed": len(self.changed), "refused": self.refused}


class PassError(NaflexError):
    """A pass did not find what the graph must contain."""


def run(model: Model, names: Sequence[str], complete: Collection[str] = ()) -> list[Applied]:
    """Run passes in place.

    Args:
        model: The graph.
        names: Names of passes in `PASSES`, in order.
        complete: Passes that must find at least one candidate and refuse none.

    Raises:
        PassError: One of these found or refused otherwise; names the first candidate refused, with the reason.
    """
    results = []
    for name in names:
        applied = apply(model, PASSES[name])
        results.append(applied)
        if name in complete and (applied.refused or not applied.changed):
            where = [f"refused {node}, because {reason}" for node, reason in applied.refused.items()]
            raise PassError(
                f"{name}: expected to rewrite every candidate, {where[0] if where else 'found none'}",
                hint="the graph was exported by another version, or changed by a tool that the passes do not know",
            )
    return results


def apply(model: Model, one: Pass) -> Applied:
    """Run one pass in place."""
    applied = Applied(one.name)
    for node in list(one.match(model)):
        if not node.outputs:
            continue  # An earlier rewrite removed it.
        found = one.check(model, node)
        if isinstance(found, str):
            applied.refused[node.name] = found
        else:
            applied.changed.append(one.rewrite(model, found))
    model.tidy()
    return applied
