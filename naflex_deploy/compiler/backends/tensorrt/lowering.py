"""Lowers for TensorRT and TensorRT-RTX: one engine, with an optimization profile of fixed shapes for each token budget.

The library is only ever loaded in a child process, for two reasons: polygraphy chooses between the two libraries once
per process, and a parser that cannot handle a graph may end the process that it runs in.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from naflex_deploy.compiler.backends.lowering import Lowering
from naflex_deploy.compiler.backends.precision import convert
from naflex_deploy.compiler.backends.task import Task
from naflex_deploy.compiler.backends.tensorrt.attention import apply_form, choose_form, refuse_dropped_lengths
from naflex_deploy.compiler.backends.tensorrt.log import REPORT, BuildLog, check_profiles
from naflex_deploy.compiler.backends.tensorrt.plugins import registration
from naflex_deploy.compiler.backends.tensorrt.process import Request, run
from naflex_deploy.compiler.backends.tensorrt.profiles import check_profile, input_shapes, profile_sizes
from naflex_deploy.compiler.backends.tensorrt.quantize import KINDS, quantize
from naflex_deploy.compiler.backends.tensorrt.targets import choose_targets, refuse_precision
from naflex_deploy.compiler.export import input_specs, output_specs
from naflex_deploy.compiler.passes import graphs
from naflex_deploy.compiler.quantize.prepare import prepare
from naflex_deploy.compiler.quantize.quantization import Quantization
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.files import sha256
from naflex_deploy.core.manifest import InputSpec, OutputSpec, Sizes, Variant
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends import cuda_device, find
from naflex_deploy.runtime.backends.tensorrt import library as tensorrt_library
from naflex_deploy.runtime.backends.tensorrt import plan as tensorrt_plan
from naflex_deploy.runtime.backends.tensorrt.compatibility import AMPERE_ON


class TensorRTLowering(Lowering):
    def lower(self, task: Task) -> Variant:
        return lower(self.backend.name, task)

    def refuse(self, profile: Profile, precision: str) -> None:
        refuse(self.backend.name, profile, precision)

    def sizes(self, profile: Profile, prefix: int) -> list[Sizes]:
        """The sizes of each optimization profile."""
        name, wanted = self.backend.name, profile.engine.tensorrt.attention
        *_, form = choose_form(name, tensorrt_library.installed(name) or "", profile.budgets(name), wanted)
        return profile_sizes(profile, name, form, prefix)

    def attention(self, sizes: Sequence[Sizes]) -> str:
        rows = [f"{one['rows']} x {one['row_tokens']}" for one in sizes if one.get("rows", 1) > 1]
        return f"rows: {', '.join(rows)}" if rows else "whole pack"


LOWERING = TensorRTLowering


def refuse(backend: str, profile: Profile, precision: str) -> None:
    """Refuse a profile that is known not to build, before any work is done for it.

    Raises:
        UsageError, IncompatibleError: The library does not build this target, precision or form of attention.
    """
    refuse_precision(backend, choose_targets(backend, profile), precision)
    wanted = profile.engine.tensorrt.attention
    choose_form(backend, tensorrt_library.installed(backend) or "", profile.budgets(backend), wanted)


def lower(backend: str, task: Task) -> Variant:
    """Build the engine.

    Raises:
        UsageError: The backend does not build for the target.
        IncompatibleError: The library is missing or refuses the graph, or the engine exceeds the memory limit.
    """
    if reason := find(backend).cannot_build():
        raise IncompatibleError(f"{backend}: {reason}", hint="try --backend onnxruntime")
    targets = choose_targets(backend, task.profile)
    number = tensorrt_library.installed(backend) or ""
    wanted = task.profile.engine.tensorrt.attention
    forms = choose_form(backend, number, task.profile.budgets(backend), wanted)
    quantization = None
    if task.precision in KINDS:
        quantization = prepare(task.portable, task.calibrated(), KINDS[task.precision], task.prefix, report=task.report)
    refused: list[dict[str, str]] = []
    for form in forms[:-1]:
        try:
            return _lower(backend, task, targets, form, quantization, refused)
        except IncompatibleError as error:
            task.report(f"{form} attention: {error.message}")
            refused.append({"pass": "attention", "form": form, "refused": error.message})
    return _lower(backend, task, targets, forms[-1], quantization, refused)


def _lower(
    backend: str,
    task: Task,
    targets: tuple[str, ...],
    form: str,
    quantization: Quantization | None,
    refused: list[dict[str, str]],
) -> Variant:
    number = tensorrt_library.installed(backend) or ""
    with tempfile.TemporaryDirectory(prefix="naflex-deploy-") as temporary:
        graph = Path(temporary) / "lowered.onnx"
        inputs, outputs = write_lowered(task.portable, graph, form, task.precision, quantization)
        sizes = profile_sizes(task.profile, backend, form, task.prefix)
        target = "+".join(targets) or AMPERE_ON
        name = f"{backend}{'.'.join(number.split('.')[:2])}-{target}-{task.precision}"
        plan = task.directory / name / "engine.plan"
        plan.parent.mkdir(parents=True, exist_ok=True)
        # TensorRT-RTX compiles its kernels where it runs, so its build times none.
        cache = timing_cache(backend, target) if backend == "tensorrt" else None
        plugins = registration() if form == "plugin" else None
        request = make_request(backend, graph, plan, inputs, sizes, targets, task.precision, cache, plugins)
        task.report(f"building {name}: {len(sizes)} optimization profiles, {form} attention")
        asked_for = request.digest(number)
        built = run(request, task.report)
    check_profiles(built.log, len(sizes))
    products = check_products(built.log, quantization)
    check_memory(built.log, sizes, task.profile.engine.memory_limit)
    if backend == "tensorrt-rtx":
        check_header(plan, number, targets)
    return Variant(
        name=name,
        backend=backend,
        target=target,
        precision=task.precision,
        model=f"{task.directory.name}/{name}/engine.plan",
        budgets=list(task.profile.budgets(backend)),
        profiles=sizes,
        inputs=inputs,
        outputs=outputs,
        passes=[
            *(quantization.record() if quantization else []),
            *refused,
            {"pass": "attention", "form": form},
            {"pass": "precision", "precision": task.precision},
        ],
        versions={backend: number, **{package: version(package) for package in ("onnx", "polygraphy", "torch")}},
        build={
            **built.log.to_json(),
            **products,
            "request_sha256": asked_for,
            "builder_peak_memory_bytes": built.peak_memory,
            "timing_cache": _cache_entry(cache),
        },
    )


def write_lowered(
    portable: Path, path: Path, form: str, precision: str, quantization: Quantization | None = None
) -> tuple[list[InputSpec], list[OutputSpec]]:
    """Write the graph that TensorRT builds from, with its weights beside it.

    Args:
        portable: The portable graph.
        path: Path of the graph to write.
        form: Form of attention, see `choose_form`.
        precision: Precision of the graph; ``int8`` and ``fp8`` are Q/DQ nodes in an fp16 graph.
        quantization: The layers to quantise, for ``int8`` and ``fp8``.

    Returns:
        The graph's inputs and outputs.
    """
    model = graphs.read(portable)
    if quantization is not None:
        quantization.prepare(model)
    apply_form(model, form)
    model.graph.toposort()
    convert(model.graph, "fp16" if precision in KINDS else precision)
    if quantization is not None:
        quantize(model.graph, quantization.layers)
    proto = gs.export_onnx(model.graph)
    del model
    refuse_dropped_lengths(proto)
    onnx.save(proto, str(path), save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    return input_specs(proto), output_specs(proto)


def make_request(
    backend: str,
    graph: Path,
    plan: Path,
    inputs: list[InputSpec],
    sizes: list[Sizes],
    targets: tuple[str, ...],
    precision: str,
    cache: Path | None = None,
    plugins: str | None = None,
) -> Request:
    """The request to the builder: a plan with one optimization profile of fixed shapes for each of ``sizes``.

    Raises:
        UsageError: The shapes of a profile disagree.
    """
    profiles = [input_shapes(inputs, one) for one in sizes]
    for shapes in profiles:
        check_profile(inputs, shapes)
    return Request(
        backend=backend,
        graph=str(graph),
        plan=str(plan),
        profiles=profiles,
        targets=targets,
        decomposable=precision == "fp32",
        timing_cache=str(cache) if cache else None,
        plugins=plugins,
    )


def check_products(log: BuildLog, quantization: Quantization | None) -> dict[str, object]:
    """Check that every quantised product really runs with 8 bits on both sides.

    Raises:
        IncompatibleError: Some profile has fewer such products than were quantised, or the log lists no layers of it.
    """
    if quantization is None:
        return {}
    asked = len(quantization.layers)
    for index, profile in enumerate(log.profiles):
        if not profile.layers:
            raise IncompatibleError(
                f"the library's log is not understood: expected the layers of optimization profile {index}, found none",
                hint=f"build in bf16, or {REPORT}",
            )
    running = min(profile.eight_bit_products for profile in log.profiles)
    if running < asked:
        raise IncompatibleError(
            f"the library runs {running} of {asked} quantised products in eight bits",
            hint=f"build in bf16, or {REPORT}",
        )
    return {"int8_products": {"asked": asked, "running": running}}


def check_memory(log: BuildLog, sizes: list[Sizes], limit: int | None) -> None:
    """Refuse an engine that exceeds the memory limit.

    Raises:
        IncompatibleError: A budget needs more memory; names the first one. Or the log does not state the memory of the
            weights.
    """
    if limit is None:
        return
    if log.weights_bytes is None:
        raise IncompatibleError(
            "the library's log is not understood: expected the memory of the weights, found none",
            hint=f"leave out engine.memory_limit, or {REPORT}",
        )
    for one, built in zip(sizes, log.profiles, strict=True):
        total = built.activation_bytes + log.weights_bytes
        if total > limit:
            raise IncompatibleError(
                f"budget {one['tokens']} needs {total / 1e6:,.0f} MB, engine.memory_limit is {limit / 1e6:,.0f} MB",
                hint="remove that budget from packing.budgets, or raise engine.memory_limit",
            )


def check_header(plan: Path, version_built: str, targets: tuple[str, ...]) -> None:
    """Check that the header of a plan names the version and targets that were asked for.

    Raises:
        IncompatibleError: The header names others.
    """
    header = tensorrt_plan.PlanHeader.read(plan)
    if header.version != version_built or (targets and header.targets != targets):
        raise IncompatibleError(
            f"expected a plan of TensorRT-RTX {version_built} for {', '.join(targets) or 'any'}, "
            f"found {header.version} for {', '.join(header.targets)}",
            hint="the library did not build what it was asked for; report this with its version",
        )


def timing_cache(backend: str, target: str) -> Path:
    """Path of the kernel timing cache that a build loads and saves; one per library, version, target and GPU."""
    device = cuda_device.find()
    gpu = "" if isinstance(device, str) else f"{device.name} {device.driver}"
    key = hashlib.sha256(f"{backend} {tensorrt_library.installed(backend)} {target} {gpu}".encode()).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "naflex-deploy" / "timing" / f"{key}.cache"


def _cache_entry(cache: Path | None) -> dict[str, str] | None:
    return {"key": cache.stem, "sha256": sha256(cache)} if cache and cache.is_file() else None
