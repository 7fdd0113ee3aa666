"""naflex-deploy inspect"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from naflex_deploy.cli.configuration import DEMO
from naflex_deploy.cli.terminal import (
    describe_witness,
    json_option,
    listed,
    out,
    print_json,
    print_table,
    reports_errors,
)
from naflex_deploy.core.config import leaves
from naflex_deploy.core.errors import needs_extra
from naflex_deploy.core.manifest import FILE_NAME, InputSpec, OutputSpec, Variant
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.runtime.bundle.bundle import Bundle


@click.command()
@click.argument("target", metavar="BUNDLE|SPEC")
@json_option
@reports_errors
def command(target: str, as_json: bool) -> None:
    """Show what a bundle holds and which of its variants run here, or whether a checkpoint can be built.

    \b
    naflex-deploy inspect build/photo
    naflex-deploy inspect hf:google/siglip2-base-patch16-naflex

    SPEC is a checkpoint as `build --model` takes it; its options are shown without building it.
    """
    path = Path(target)
    if (path / FILE_NAME).exists() or not (path.is_dir() or ":" in target or target == DEMO):
        _inspect_bundle(path, as_json)
    else:
        _inspect_checkpoint(target, as_json)


def _inspect_checkpoint(spec: str, as_json: bool) -> None:
    with needs_extra("build"):
        from naflex_deploy.compiler.checkpoints.describe import describe
    found = describe(spec)
    if as_json:
        preprocessing = found.preprocessing.model_dump() if found.preprocessing else None
        architecture = asdict(found.architecture) if found.architecture else None
        print_json(
            "inspect",
            source=found.source,
            buildable=found.buildable,
            reason=found.reason,
            architecture=architecture,
            preprocessing=preprocessing,
            preprocessing_origins=dict(found.origins),
            left_out=list(found.left_out),
            family=found.family,
            note=found.note,
            parameters=found.parameters,
            labels=list(found.labels),
            outputs=list(found.outputs),
        )
        return
    if not found.buildable:
        out.print(f"{found.source} cannot be built: {found.reason}", markup=False)
        return
    out.print(f"[bold]{found.source}[/] can be built: {found.parameters / 1e6:.1f} M parameters")
    if found.family:
        out.print(f"image tower of {found.family}{found.note and f'; {found.note}'}", markup=False)
    _print_labels(found.labels)
    if found.architecture and found.preprocessing:
        every = asdict(found.architecture)
        _print_options("architecture", {name: every[name] for name in found.options})
        _print_preprocessing(found.preprocessing, found.origins)
    if found.left_out:
        out.print(f"not read, as they are no part of the model: {', '.join(found.left_out)}", markup=False)
    out.print(f"outputs: {', '.join(name for name in found.outputs if ':' not in name)}, tokens:-1, tokens:-2, …")


def _inspect_bundle(bundle: Path, as_json: bool) -> None:
    opened = Bundle.open(bundle)
    manifest = opened.manifest
    candidates = opened.candidates()
    taken = next((c.variant for c in candidates if c.rejected is None), None)
    if as_json:
        print_json(
            "inspect",
            manifest=manifest.model_dump(mode="json", by_alias=True),
            variants=[{"name": c.variant.name, "rejected": c.rejected} for c in candidates],
            loads=taken.name if taken else None,
        )
        return
    model, image = manifest.model, manifest.config.image
    out.print(f"[bold]{bundle}[/]: {model.source}, {model.parameters / 1e6:.1f} M parameters, by {manifest.tool}")
    if model.family:
        out.print(f"image tower of {model.family}", markup=False)
    out.print(f"profile {manifest.config.name}: {image.fit}, {image.tokens} tokens an image")
    if manifest.head:
        _print_labels(manifest.head.labels)
        least = min(manifest.head.thresholds, default=0.0)
        named = f"; reported from a score of {least:g} on" if manifest.head.thresholds else ""
        out.print(f"scored by {manifest.head.scores}{named}")
    out.print(f"witness {describe_witness(manifest.witness)}", markup=False)
    if manifest.text:
        out.print("with its text tower: embed --text")
    print_table(
        "variants",
        ["name", "tokens a pack", "gate", "here"],
        [
            [
                c.variant.name,
                listed(c.variant.budgets),
                c.variant.gate.status,
                f"rejected: {c.rejected}" if c.rejected else "accepted",
            ]
            for c in candidates
        ],
    )
    if taken is not None:
        out.print(f"load takes {taken.name}: {opened.why(taken)}", markup=False)
    for title, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        print_table(title, ["name", "dtype", "shape"], [_row(spec) for spec in specs])
    _print_options("architecture", {key: value for key, value in model.architecture.items() if value})
    _print_preprocessing(manifest.preprocessing, manifest.preprocessing_origins)
    for candidate in candidates:
        _print_graph(candidate.variant)
    print_table(
        "files", ["path", "MB"], [[name, f"{entry.size / 1e6:.2f}"] for name, entry in sorted(manifest.files.items())]
    )


def _print_graph(variant: Variant) -> None:
    """Print what each pass did, the operators before and after, and what the builder logged about its engine."""
    print_table(f"passes of {variant.name}", ["pass", "changed", "refused"], [_pass(done) for done in variant.passes])
    operators = variant.build.get("operators")
    if operators:
        portable, lowered = operators["portable"], operators["lowered"]
        print_table(
            f"operators of {variant.name}",
            ["operator", "portable", "lowered"],
            [[name, portable.get(name, 0), lowered.get(name, 0)] for name in {**portable, **lowered}],
        )
    built = variant.build.get("profiles")
    if built:
        print_table(
            f"optimization profiles of {variant.name}, as its builder logged them",
            ["sizes", "activations", "layers", "fused attentions"],
            [_profile(sizes, told) for sizes, told in zip(variant.profiles, built, strict=True)],
        )


def _pass(done: Mapping[str, Any]) -> list[object]:
    refused = done.get("refused", "")
    if isinstance(refused, Mapping):
        refused = "; ".join(f"{node}: {why}" for node, why in refused.items())
    name = " ".join(str(done[key]) for key in ("pass", "form", "precision") if key in done)
    return [name, done.get("changed", ""), refused]


def _profile(sizes: Mapping[str, int], told: Mapping[str, Any]) -> list[object]:
    shown = ", ".join(f"{size} {name.replace('_', ' ')}" for name, size in sizes.items())
    return [shown, f"{told['activation_bytes'] / 1e6:.1f} MB", told["layers"], told["fused_attentions"]]


def _print_labels(labels: Sequence[str]) -> None:
    if labels:
        shown = ", ".join(labels[:12]) + "…" * (len(labels) > 12)
        out.print(f"{len(labels)} classes: {shown}", markup=False)


def _print_options(title: str, options: Mapping[str, Any]) -> None:
    print_table(title, ["option", "value"], [[key, listed(value)] for key, value in leaves(dict(options)).items()])


def _print_preprocessing(preprocessing: Preprocessing, origins: Mapping[str, str]) -> None:
    print_table(
        "preprocessing",
        ["option", "value", "from"],
        [
            [name, listed(value), origins.get(name.partition(".")[0], "")]
            for name, value in leaves(preprocessing.model_dump()).items()
        ],
    )


def _row(spec: InputSpec | OutputSpec) -> list[object]:
    return [spec.role if isinstance(spec, InputSpec) else spec.name, spec.dtype, " x ".join(map(str, spec.shape))]
