"""A model repository for NVIDIA Triton Server: preprocessing, the engine, and an ensemble of both.

    NAME/             ensemble: images [N] BYTES in; the bundle's outputs and image_grid_hw [N, 2] out
    NAME_preprocess/  Python model: decodes, fits, cuts and packs images
    NAME_engine/      the ONNX graph or the TensorRT plan, warmed up with a pack of each budget

Or, where the server has no backend for the engine, one Python model that runs the bundle:

    NAME/             Python model: images [N] BYTES in; the bundle's outputs and image_grid_hw [N, 2] out

Each request becomes one pack. An ensemble cannot form packs across requests; `naflex-deploy serve` can.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from naflex_deploy.core.config import adjust
from naflex_deploy.core.errors import IncompatibleError, UsageError
from naflex_deploy.core.files import new_directory
from naflex_deploy.core.manifest import FILE_NAME, Manifest, Variant
from naflex_deploy.core.pack import Pack, Patches, Role
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.serving.triton_server.preprocessing import GRIDS, VARIANT

_TYPES = {
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "bfloat16": "TYPE_BF16",
    "float32": "TYPE_FP32",
}
_PLATFORMS = {"onnxruntime": ("onnxruntime", "model.onnx"), "tensorrt": ("tensorrt", "model.plan")}


@dataclass(frozen=True)
class _Tensor:
    name: str
    type: str
    dims: tuple[int, ...]


def write_repository(
    bundle: Path,
    output: Path,
    *,
    variant: str | None = None,
    settings: Sequence[str] = (),
    python: bool = False,
    force: bool = False,
) -> list[str]:
    """Write a model repository for a bundle. It appears only when it is complete.

    Args:
        bundle: Directory of the bundle, whose files are checked against its manifest.
        output: Directory of the repository.
        variant: Name of a variant, which need not run here. Default: the first one for ONNX Runtime or TensorRT or,
            in Python, the first one.
        settings: How inputs are read; see `adjust`.
        python: Run the bundle in the server's Python backend.
        force: Replace what exists at ``output``.

    Returns:
        Names of the models, the ensemble first.

    Raises:
        UsageError: There is no such variant, or a setting is wrong.
        IncompatibleError: Triton Server has no backend for the variant, or the profile cuts images into tiles.
        BundleError: A file is missing or changed.
        OutputError: The repository exists or cannot be written.
    """
    opened = Bundle.open(bundle)
    manifest = opened.manifest.model_copy(update={"config": adjust(opened.manifest.config, settings)})
    chosen = _choose(manifest, variant, python=python)
    image = manifest.config.image
    if image.tiled:
        shrunk = ["--set image.fit=shrink-only"] * (image.fit == "tiles")
        shrunk += ["--set image.oversize=shrink"] * (image.oversize == "tiles")
        raise IncompatibleError(
            "the bundle's profile cuts images into tiles, and Triton Server cannot join the results of tiles",
            hint=f"use naflex-deploy serve, or shrink large images: {' '.join(shrunk)}",
        )
    opened.check(opened.files_of(chosen))
    name = bundle.resolve().name
    with new_directory(output, force=force, made="*/config.pbtxt") as folder:
        if python:
            _write_bundle(folder / name, opened, manifest, chosen)
            opened.refuse_changed(opened.files_of(chosen))
            return [name]
        _write_engine(folder / f"{name}_engine", opened, chosen)
        _write_preprocess(folder / f"{name}_preprocess", manifest, chosen)
        _write_ensemble(folder / name, name, manifest, chosen)
        opened.refuse_changed(opened.files_of(chosen))
    return [name, f"{name}_preprocess", f"{name}_engine"]


def _choose(manifest: Manifest, name: str | None, *, python: bool) -> Variant:
    named = [variant for variant in manifest.variants if name in (None, variant.name)]
    if not named:
        known = [variant.name for variant in manifest.variants]
        raise UsageError(f"the bundle has no variant '{name}', expected one of {known}")
    for variant in named:
        if (python or variant.backend in _PLATFORMS) and variant.gate.status != "failed":
            return variant
    raise IncompatibleError(
        f"expected a variant{'' if python else f' for one of {sorted(_PLATFORMS)}'} that did not fail its gate, found "
        f"{[f'{variant.name} ({variant.gate.status})' for variant in named]}",
        hint="build one with --backend onnxruntime or --backend tensorrt",
    )


def _inputs(variant: Variant) -> list[_Tensor]:
    return [_Tensor(spec.role.value, _TYPES[spec.dtype], _dims(spec.shape)) for spec in variant.inputs]


def _outputs(variant: Variant) -> list[_Tensor]:
    return [_Tensor(spec.name, _TYPES[spec.dtype], _dims(spec.shape)) for spec in variant.outputs]


def _dims(shape: Iterable[int | str]) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def _write_engine(folder: Path, bundle: Bundle, variant: Variant) -> None:
    backend, file_name = _PLATFORMS[variant.backend]
    version = folder / "1"
    version.mkdir(parents=True)
    shutil.copy2(bundle.path / variant.model, version / file_name)
    _copy(bundle, bundle.files_of(variant)[1:], version)  # The graph refers to its weights by their path in the bundle.
    warm_up = [_warm_up(folder, bundle.manifest, variant, budget) for budget in variant.budgets]
    content = [f'name: "{folder.name}"', f'backend: "{backend}"', "max_batch_size: 0"]
    content += [_tensors("input", _inputs(variant)), _tensors("output", _outputs(variant)), *warm_up]
    _write_config(folder, content)


def _warm_up(folder: Path, manifest: Manifest, variant: Variant, budget: int) -> str:
    """Write the tensors of a pack of one image to files, and return the warm-up section that names them."""
    side = manifest.preprocessing.merge
    columns = (budget - manifest.model.prefix) // side**2 * side
    patches, width = side * columns, manifest.preprocessing.patch_values
    raw = any(spec.role is Role.PATCHES and spec.dtype == "uint8" for spec in variant.inputs)
    pixels = np.zeros((patches, width), np.uint8) if raw else np.zeros((patches, width), np.float32)
    pack = Pack.of([Patches(pixels, (side, columns))], prefix=manifest.model.prefix, tokens=budget)
    (folder / "warmup").mkdir(exist_ok=True)
    inputs = []
    for spec in variant.inputs:
        values, file = np.ascontiguousarray(pack.view(spec.role)), f"{budget}-{spec.role.value}"
        (folder / "warmup" / file).write_bytes(values.tobytes())
        dims = ", ".join(map(str, values.shape))
        inputs.append(
            f'  inputs {{ key: "{spec.role.value}" '
            f'value {{ data_type: {_TYPES[spec.dtype]} dims: [{dims}] input_data_file: "{file}" }} }}'
        )
    # Triton Server passes over a warm-up without a batch size, which is 1 for models that take no batches.
    return "\n".join([f'model_warmup {{\n  name: "{budget} tokens"\n  batch_size: 1', *inputs, "}"])


def _copy(bundle: Bundle, names: Iterable[str], folder: Path) -> None:
    """Copy files of a bundle, which keep their paths."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(bundle.path / name, folder / name)


def _write_bundle(folder: Path, bundle: Bundle, manifest: Manifest, variant: Variant) -> None:
    inside = folder / "1" / "bundle"
    names = bundle.files_of(variant)
    _copy(bundle, names, inside)
    listed = {name: manifest.files[name] for name in names}
    own = manifest.model_copy(update={"variants": [variant], "files": listed, "text": None})
    (inside / FILE_NAME).write_text(own.to_json(), encoding="utf-8")
    _write_model(folder, "bundle_model.py")
    content = [f'name: "{folder.name}"', 'backend: "python"', "max_batch_size: 0"]
    content += [_tensors("input", [_IMAGES]), _tensors("output", [*_outputs(variant), _GRID])]
    _write_config(folder, [*content, "instance_group { kind: KIND_CPU count: 1 }"])


def _write_model(folder: Path, source: str) -> None:
    text = files("naflex_deploy.serving.triton_server").joinpath(source).read_text(encoding="utf-8")
    (folder / "1" / "model.py").write_text(text, encoding="utf-8")


def _write_preprocess(folder: Path, manifest: Manifest, variant: Variant) -> None:
    version = folder / "1"
    version.mkdir(parents=True)
    _write_model(folder, "preprocess_model.py")
    (version / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")
    (version / VARIANT).write_text(f"{variant.name}\n", encoding="utf-8")
    content = [f'name: "{folder.name}"', 'backend: "python"', "max_batch_size: 0"]
    content += [_tensors("input", [_IMAGES]), _tensors("output", [*_inputs(variant), _GRID])]
    content.append("instance_group { kind: KIND_CPU count: 2 }")
    _write_config(folder, content)


def _write_ensemble(folder: Path, name: str, manifest: Manifest, variant: Variant) -> None:
    (folder / "1").mkdir(parents=True)
    roles = [tensor.name for tensor in _inputs(variant)]
    prepared = [("images", "images")], [*((role, f"packed_{role}") for role in roles), (GRIDS, GRIDS)]
    run = [(role, f"packed_{role}") for role in roles], [(spec.name, spec.name) for spec in variant.outputs]
    content = [f'name: "{name}"', 'platform: "ensemble"', "max_batch_size: 0"]
    content += [_tensors("input", [_IMAGES]), _tensors("output", [*_outputs(variant), _GRID])]
    content.append(
        "\n".join(["ensemble_scheduling {", _step(f"{name}_preprocess", *prepared), _step(f"{name}_engine", *run), "}"])
    )
    _write_config(folder, content)


_IMAGES = _Tensor("images", "TYPE_STRING", (-1,))
_GRID = _Tensor(GRIDS, "TYPE_INT32", (-1, 2))


def _step(model: str, inputs: list[tuple[str, str]], outputs: list[tuple[str, str]]) -> str:
    lines = [f'  step {{\n    model_name: "{model}"\n    model_version: -1']
    for kind, names in (("input_map", inputs), ("output_map", outputs)):
        lines += [f'    {kind} {{ key: "{key}" value: "{value}" }}' for key, value in names]
    return "\n".join([*lines, "  }"])


def _tensors(kind: str, tensors: list[_Tensor]) -> str:
    return "\n".join(
        f'{kind} {{ name: "{t.name}" data_type: {t.type} dims: [{", ".join(map(str, t.dims))}] }}' for t in tensors
    )


def _write_config(folder: Path, content: list[str]) -> None:
    (folder / "config.pbtxt").write_text("\n".join(content) + "\n", encoding="utf-8")
