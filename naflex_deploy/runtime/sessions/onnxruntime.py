"""ONNX Runtime on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.sessions import Outputs


class OnnxRuntimeSession:
    """A graph loaded into ONNX Runtime. Safe to run from several threads.

    Args:
        model: Path of the graph.
        variant: Its manifest entry.
        threads: Threads inside one call, 0 for one a core.
    """

    def __init__(self, model: Path, variant: Variant, threads: int = 0) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        try:
            self._session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises bare exceptions of its own
            raise IncompatibleError(
                f"ONNX Runtime {ort.__version__} cannot load variant '{variant.name}': {str(error).splitlines()[0]}",
                hint=f"it was built with {variant.versions.get('onnxruntime', 'another version')}; build it again here",
            ) from None
        self._inputs = variant.inputs

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        feeds = {spec.role.value: pack.view(spec.role) for spec in self._inputs}
        return dict(zip(outputs, self._session.run(list(outputs), feeds), strict=True))
