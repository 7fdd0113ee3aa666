"""OpenVINO on a CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from queue import LifoQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.machine import cores
from naflex_deploy.core.manifest import Variant
from naflex_deploy.core.pack import Pack, Role
from naflex_deploy.runtime.backends.graph_files import GraphFiles
from naflex_deploy.runtime.backends.memory import detached
from naflex_deploy.runtime.backends.openvino import model
from naflex_deploy.runtime.backends.openvino.executed import check
from naflex_deploy.runtime.backends.openvino.layout import Layout
from naflex_deploy.runtime.backends.openvino.store import Store
from naflex_deploy.runtime.backends.session import Outputs

if TYPE_CHECKING:
    import openvino


class OpenVinoSession:
    """A variant compiled by OpenVINO, its weights in memory. Safe to run from several threads.

    Its files may be replaced, changed or removed afterwards.

    Args:
        bundle: Its directory.
        variant: Its manifest entry.
        threads: That run packs; 0 for one a core.
        streams: Packs at a time, each on an equal share of the threads.
    """

    def __init__(self, bundle: Path, variant: Variant, threads: int = 0, streams: int = 1) -> None:
        self._bundle, self._variant = bundle, variant
        self._threads, self._streams = threads or cores(), streams
        self._tokens_per_row = {spec.name: spec.tokens_per_row for spec in variant.outputs}
        main = bundle / variant.model
        self._files = GraphFiles(main, bundle, variant)
        self._slots = next(int(s.shape[0]) - 1 for s in variant.inputs if s.role == Role.SLOT_LENGTHS)
        compiled, store = self._load(main, model.hint(variant.precision))
        check(compiled, variant)
        self._main = _Compiled(compiled, store, [spec.name for spec in variant.outputs], streams)
        self._places = self._load_places(main.with_name(model.PLACES), compiled)
        self._loading = Lock()
        self._worker: OpenVinoSession | None = None

    @property
    def workers(self) -> int:
        """Packs that are best run side by side, on `worker`."""
        return self._threads

    def worker(self) -> OpenVinoSession:
        """The same graph with a stream for each core: several packs at once waste no time waiting for each other.

        Where its files are no longer those that were loaded, this object.
        """
        if self._streams == self._threads:
            return self
        with self._loading:
            if self._worker is None:
                self._worker = self._files.load_again(
                    lambda: OpenVinoSession(self._bundle, self._variant, self._threads, self._threads), self
                )
        return self._worker

    @property
    def worker_is_loaded(self) -> bool:
        """Whether `worker` was asked for already."""
        return self._streams == self._threads or self._worker is not None

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        layout = Layout.of(pack, self._slots)
        feeds: dict[str, Any] = {role.value: view for role, view in layout.views.items()}
        feeds |= {s.role.value: layout.pack.view(s.role) for s in self._variant.inputs if s.role not in layout.views}
        if self._places is not None:
            feeds |= self._places.run(feeds)
        found = self._main.run(feeds)
        return {name: layout.restored(found[name], self._tokens_per_row[name]) for name in outputs}

    def _load(self, path: Path, hint: str) -> tuple[openvino.CompiledModel, Store]:
        settings = {"INFERENCE_NUM_THREADS": self._threads, "NUM_STREAMS": self._streams}
        try:
            with detached(self._files.paths()):
                return model.compiled(path, self._bundle, hint, **settings)
        except RuntimeError as error:  # OpenVINO raises these alone
            raise IncompatibleError(
                f"{model.library()} cannot load variant '{self._variant.name}': {str(error).strip().splitlines()[-1]}",
                hint=f"it was built with {self._variant.versions.get('openvino', 'another version')}; build it again",
            ) from None

    def _load_places(self, path: Path, main: openvino.CompiledModel) -> _Compiled | None:
        if not path.exists():
            return None
        places, store = self._load(path, "f32")
        wanted = set(_input_names(main))
        outputs = [(wanted & port.get_names()).pop() for port in places.outputs]
        return _Compiled(places, store, outputs, self._streams)


def _input_names(compiled: openvino.CompiledModel) -> list[str]:
    """Names as the graph has them; a port also goes by the names of what merely converts it."""
    return [port.get_node().get_friendly_name() for port in compiled.inputs]


class _Compiled:
    """A compiled graph and a request for each of its streams, which threads take turns at.

    Args:
        compiled: The graph.
        store: Its weights.
        outputs: Names of its outputs, in order.
        streams: Requests that run at a time.
    """

    def __init__(self, compiled: openvino.CompiledModel, store: Store, outputs: Sequence[str], streams: int) -> None:
        self._store, self._first = store, iter(range(streams))
        self._inputs, self._outputs = _input_names(compiled), outputs
        self._requests: LifoQueue[openvino.InferRequest] = LifoQueue()
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())

    def run(self, feeds: Mapping[str, Any]) -> Outputs:
        """Every output, in memory of its own."""
        request = self._requests.get()
        # The first pack of each stream lays weights out for kernels.
        laying_out = next(self._first, None) is not None
        try:
            with self._store.released() if laying_out else nullcontext():
                request.infer([feeds[name] for name in self._inputs], share_inputs=True)
            return {name: np.array(request.get_output_tensor(i).data) for i, name in enumerate(self._outputs)}
        finally:
            self._requests.put(request)
