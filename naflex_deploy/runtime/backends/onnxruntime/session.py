"""Run packs on ONNX Runtime on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import onnxruntime as ort

from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.machine import cores, has_vnni
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.backends.graph_files import GraphFiles
from naflex_deploy.runtime.backends.memory import detached
from naflex_deploy.runtime.backends.session import Outputs

SETTINGS = {
    # ONNX Runtime would fuse additions into SkipLayerNormalization, which takes eight times as long on a CPU.
    "optimization.disable_specified_optimizers": "SkipLayerNormFusion",
}


BF16 = "mlas.enable_gemm_fastmath_arm64_bfloat16"
"""On Arm, products of a float32 graph round their inputs to bf16 and add in float32."""


def session_options(weights: Path, precision: str = "fp32") -> ort.SessionOptions:
    """The session options for every graph.

    Args:
        weights: Directory to which the paths of external data are relative.
        precision: Of the variant.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    for key, value in SETTINGS.items():
        options.add_session_config_entry(key, value)
    if not has_vnni():
        # u8 by s8 products saturate here, so use u8 by u8. With VNNI, u8 by u8 would be 2.5 times slower for nothing.
        options.add_session_config_entry("session.x64quantprecision", "1")
    if precision == "bf16":
        options.add_session_config_entry(BF16, "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.resolve()))
    return options


class OnnxRuntimeSession:
    """A graph loaded into ONNX Runtime, its weights in memory. Safe to run from several threads.

    Its files may be replaced, changed or removed afterwards.

    Args:
        model: Path of the graph.
        variant: Its manifest entry.
        threads: Number of threads per call; 0 for one per core.
        weights: Directory to which the paths of external data are relative. Default: that of the graph.
    """

    def __init__(self, model: Path, variant: Variant, threads: int = 0, weights: Path | None = None) -> None:
        self._model, self._variant, self._weights = model, variant, weights or model.parent
        self._threads = threads or cores()
        options = session_options(self._weights, variant.precision)
        options.intra_op_num_threads = self._threads
        self._files = GraphFiles(model, self._weights, variant)
        try:
            with detached(self._files.paths()):
                self._session = ort.InferenceSession(model.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises bare exceptions of its own
            raise IncompatibleError(
                f"ONNX Runtime {ort.__version__} cannot load variant '{variant.name}': {str(error).splitlines()[0]}",
                hint=f"it was built with {variant.versions.get('onnxruntime', 'another version')}; build it again here",
            ) from None
        self._inputs = variant.inputs
        self._loading = Lock()
        self._worker: OnnxRuntimeSession | None = None

    @property
    def workers(self) -> int:
        """Number of packs that are best run side by side on `worker`."""
        return self._threads

    def worker(self) -> OnnxRuntimeSession:
        """The same graph with one thread per call, so that packs side by side do not wait for each other's threads.

        Where its files are no longer those that were loaded, this object.
        """
        if self._threads == 1:
            return self
        with self._loading:
            if self._worker is None:
                self._worker = self._files.load_again(
                    lambda: OnnxRuntimeSession(self._model, self._variant, 1, self._weights), self
                )
        return self._worker

    @property
    def worker_is_loaded(self) -> bool:
        """Whether the session that `worker` returns is loaded already."""
        return self._threads == 1 or self._worker is not None

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        feeds = {spec.role.value: pack.view(spec.role) for spec in self._inputs}
        return dict(zip(outputs, self._session.run(list(outputs), feeds), strict=True))
