"""ONNX Runtime on a GPU: a pack's inputs copied to its memory once, outputs left there or brought back."""

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
from naflex_deploy.runtime.backends.onnxruntime_cuda.provider import INSTALL, PROVIDER, cannot_run
from naflex_deploy.runtime.backends.session import Outputs

DEVICE = "cuda"

OPTIONS = {
    "use_tf32": "0",  # float32 engines are held to float32
    "enable_skip_layer_norm_strict_mode": "1",  # sums in float32, whatever the type of what is summed
    "arena_extend_strategy": "kSameAsRequested",
}

OUT_OF_MEMORY = ("Failed to allocate memory", "out of memory", "CUDA error 2")


@dataclass(frozen=True)
class Bound:
    """A pack in GPU memory, to be run any number of times.

    Attributes:
        outputs: Names, in order.
    """

    session: OnnxRuntimeCudaSession
    binding: Any
    outputs: tuple[str, ...]

    def launch(self) -> None:
        """Run, and leave outputs on the GPU.

        Raises:
            IncompatibleError: It takes more memory than the GPU has, or ONNX Runtime fails otherwise.
        """
        self.session.launch(self.binding)

    def fetch(self) -> Outputs:
        """Outputs of the last run."""
        return dict(zip(self.outputs, self.binding.copy_outputs_to_cpu(), strict=True))

    def keep(self) -> dict[str, Any]:
        """The same in GPU memory: objects that speak DLPack."""
        return dict(zip(self.outputs, self.binding.get_outputs(), strict=True))


class OnnxRuntimeCudaSession:
    """A graph loaded into ONNX Runtime for the GPU at hand. Safe to run from several threads.

    Args:
        model: Path of the graph.
        variant: Its manifest entry.
        weights: Directory that the graph's external data is named relative to.
        tuning: Further options of ONNX Runtime's CUDA provider.

    Raises:
        IncompatibleError: This machine cannot run it, or ONNX Runtime does not load it.
    """

    def __init__(
        self, model: Path, variant: Variant, weights: Path, tuning: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        if reason := cannot_run(variant):
            raise IncompatibleError(
                f"variant '{variant.name}' cannot run here: {reason}", hint="take a variant for the CPU"
            )
        self._variant = variant
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # of CUDA, where they came as Python packages
        options = ort.SessionOptions()
        options.log_severity_level = 3
        folder = str(weights.resolve())
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        try:
            self._session = ort.InferenceSession(model.read_bytes(), options, providers=providers(tuning))
        except Exception as error:  # ONNX Runtime raises bare exceptions of its own
            raise IncompatibleError(
                f"ONNX Runtime {ort.__version__} cannot load variant '{variant.name}': {_line(error)}",
                hint=f"it was built with {variant.versions.get('onnxruntime', 'another version')}; build it again here",
            ) from None
        if PROVIDER not in self._session.get_providers():  # it goes on without, and says so on stderr alone
            raise IncompatibleError(
                f"ONNX Runtime {ort.__version__} does not find the libraries of CUDA that it was built for",
                hint=INSTALL,
            )

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        bound = self.bind(pack, outputs)
        bound.launch()
        return bound.fetch()

    def run_on_device(self, pack: Pack, outputs: Sequence[str]) -> dict[str, Any]:
        """The same, leaving outputs in GPU memory: objects that speak DLPack."""
        bound = self.bind(pack, outputs)
        bound.launch()
        return bound.keep()

    def bind(self, pack: Pack, outputs: Sequence[str]) -> Bound:
        """Copy a pack to the GPU.

        Args:
            pack: Of any number of tokens.
            outputs: Names to compute.
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
        """Run what is bound; see `Bound.launch`."""
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime raises bare exceptions of its own
            short = any(words in str(error) for words in OUT_OF_MEMORY)
            said = "the GPU has not enough memory for this pack" if short else _line(error)
            raise IncompatibleError(
                f"variant '{self._variant.name}' does not run: {said}",
                hint="leave the largest of packing.budgets out" if short else "naflex-deploy verify tells more",
            ) from None


def providers(tuning: Mapping[str, str]) -> list[Any]:
    """As ONNX Runtime takes them; on the CPU it computes sizes of tensors alone."""
    return [(PROVIDER, OPTIONS | dict(tuning)), "CPUExecutionProvider"]


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
