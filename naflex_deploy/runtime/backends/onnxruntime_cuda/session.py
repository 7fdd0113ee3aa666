"""Run packs on ONNX Runtime on a GPU. Inputs are copied to the GPU once; outputs stay there or are copied back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnxruntime as ort

from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack
from naflex_deploy.core.rows import row_views
from naflex_deploy.runtime.backends.graph_files import GraphFiles
from naflex_deploy.runtime.backends.memory import detached
from naflex_deploy.runtime.backends.onnxruntime_cuda.provider import INSTALL, PROVIDER, cannot_run
from naflex_deploy.runtime.backends.session import Outputs

DEVICE = "cuda"

OPTIONS = {
    "use_tf32": "0",  # fp32 engines must not fall back to TF32
    "enable_skip_layer_norm_strict_mode": "1",  # accumulates in float32, whatever the type of the inputs
    "arena_extend_strategy": "kSameAsRequested",
}

OUT_OF_MEMORY = ("Failed to allocate memory", "out of memory", "CUDA error 2")


@dataclass(frozen=True)
class Bound:
    """A pack in GPU memory, which can run any number of times.

    Attributes:
        session: The session that runs it.
        binding: ONNX Runtime's I/O binding of its inputs and outputs.
        outputs: Names of the outputs, in order.
    """

    session: OnnxRuntimeCudaSession
    binding: Any
    outputs: tuple[str, ...]

    def launch(self) -> None:
        """Run the pack and leave its outputs on the GPU.

        Raises:
            IncompatibleError: The GPU has too little memory, or ONNX Runtime fails for another reason.
        """
        self.session.launch(self.binding)

    def fetch(self) -> Outputs:
        """Copy the outputs of the last run to the CPU."""
        return dict(zip(self.outputs, self.binding.copy_outputs_to_cpu(), strict=True))

    def keep(self) -> dict[str, Any]:
        """The outputs of the last run in GPU memory, as objects that support DLPack."""
        return dict(zip(self.outputs, self.binding.get_outputs(), strict=True))


class OnnxRuntimeCudaSession:
    """A graph loaded into ONNX Runtime for the GPU at hand. Safe to run from several threads.

    Args:
        model: Path of the graph.
        variant: Its manifest entry.
        weights: Directory to which the paths of external data are relative.
        tuning: Additional options of ONNX Runtime's CUDA provider.

    Raises:
        IncompatibleError: This machine cannot run the variant, or ONNX Runtime cannot load the graph.
    """

    def __init__(
        self, model: Path, variant: Variant, weights: Path, tuning: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        if reason := cannot_run(variant):
            raise IncompatibleError(
                f"variant '{variant.name}' cannot run here: {reason}", hint="use a variant for the CPU"
            )
        self._variant = variant
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # loads CUDA libraries that were installed as Python packages
        options = ort.SessionOptions()
        options.log_severity_level = 3
        folder = str(weights.resolve())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        try:
            with detached(GraphFiles(model, weights, variant).paths()):
                self._session = ort.InferenceSession(model.read_bytes(), options, providers=providers(tuning))
        except Exception as error:  # ONNX Runtime raises bare exceptions of its own
            raise IncompatibleError(
                f"ONNX Runtime {ort.__version__} cannot load variant '{variant.name}': {_line(error)}",
                hint=f"it was built with {variant.versions.get('onnxruntime', 'another version')}; build it again here",
            ) from None
        if PROVIDER not in self._session.get_providers():  # ONNX Runtime falls back to the CPU and only logs it
            raise IncompatibleError(
                f"ONNX Runtime {ort.__version__} does not find the CUDA libraries that it was built for",
                hint=INSTALL,
            )

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        bound = self.bind(pack, outputs)
        bound.launch()
        return bound.fetch()

    def run_on_device(self, pack: Pack, outputs: Sequence[str]) -> dict[str, Any]:
        """Run a pack and leave the outputs in GPU memory, as objects that support DLPack."""
        bound = self.bind(pack, outputs)
        bound.launch()
        return bound.keep()

    def bind(self, pack: Pack, outputs: Sequence[str]) -> Bound:
        """Copy a pack to the GPU and bind its outputs.

        Args:
            pack: A pack of any number of tokens.
            outputs: Names of the outputs to compute.
        """
        binding = self._session.io_binding()
        views = row_views(pack, (spec.role for spec in self._variant.inputs))
        for spec in self._variant.inputs:
            view = views[spec.role] if spec.role in views else pack.view(spec.role)
            value = ort.OrtValue.ortvalue_from_numpy(view, DEVICE, 0)
            binding.bind_ortvalue_input(spec.role.value, value)
        for name in outputs:
            binding.bind_output(name, DEVICE)
        return Bound(self, binding, tuple(outputs))

    def launch(self, binding: Any) -> None:
        """Run the pack that is bound; see `Bound.launch`."""
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime raises bare exceptions of its own
            short = any(words in str(error) for words in OUT_OF_MEMORY)
            said = "the GPU does not have enough memory for this pack" if short else _line(error)
            raise IncompatibleError(
                f"variant '{self._variant.name}' does not run: {said}",
                hint="remove the largest of packing.budgets" if short else "run `naflex-deploy verify BUNDLE`",
            ) from None


def providers(tuning: Mapping[str, str]) -> list[Any]:
    """The execution providers: CUDA, and the CPU for operations on tensor shapes."""
    return [(PROVIDER, OPTIONS | dict(tuning)), "CPUExecutionProvider"]


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
