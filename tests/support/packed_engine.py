"""An engine that runs the packed model in torch, for tests of what follows an engine: no export, no build."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.model.attention import ragged_attention
from naflex_deploy.core.config import resolve
from naflex_deploy.core.manifest import Model, OutputSpec
from naflex_deploy.core.pack import Pack, in_blocks
from naflex_deploy.runtime.backends.session import Outputs
from naflex_deploy.runtime.engine import Engine
from tests.support.bundles import summing_manifest


class PackedSession:
    """Runs packs through the packed model."""

    def __init__(self, checkpoint: Checkpoint, outputs: Sequence[str]) -> None:
        self.model = checkpoint.model(tuple(outputs), ragged_attention)
        self.packs: list[Pack] = []

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        self.packs.append(pack)
        with torch.inference_mode():
            found = self.model(*(torch.from_numpy(pack.view(role)) for role in self.model.roles))
        return {name: found[name].numpy() for name in outputs}


def packed_engine(checkpoint: Checkpoint, outputs: Sequence[str], *settings: str, budget: int = 4096) -> Engine:
    """An engine with these outputs."""
    a, base = checkpoint.architecture, summing_manifest()
    block = a.projector.merge**2 if a.projector else 1
    widths = {name: a.projector.width if in_blocks(name) and a.projector else a.width for name in outputs}
    rows = {name: f"tokens/{block}" if in_blocks(name) and block > 1 else "tokens" for name in outputs}
    specs = [OutputSpec(name=name, dtype="float32", shape=[rows[name], widths[name]]) for name in outputs]
    variant = base.variants[0].model_copy(update={"outputs": specs, "budgets": [budget]})
    profile = resolve("photo", settings=(f"engine.onnxruntime.budgets=[{budget}]", *settings), environment={}).profile
    source = Model(
        source="tiny",
        digest="0",
        architecture=dataclasses.asdict(a),
        parameters=0,
        prefix=a.prefix,
        family=checkpoint.family,
    )
    manifest = base.model_copy(
        update={
            "model": source,
            "preprocessing": checkpoint.preprocessing,
            "outputs": specs,
            "variants": [variant],
            "config": profile,
        }
    )
    return Engine(PackedSession(checkpoint, outputs), manifest, variant)
