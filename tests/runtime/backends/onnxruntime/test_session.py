"""One pack on all cores, or several packs on one core each."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import naflex_deploy as nd
from naflex_deploy.compiler.backends.registry import choose_all
from naflex_deploy.core import machine
from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.pack import Pack
from naflex_deploy.runtime.backends import find
from naflex_deploy.runtime.backends.onnxruntime.session import BF16, OnnxRuntimeSession, session_options
from naflex_deploy.runtime.backends.session import Outputs, SideBySide
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.packing.isolation import EngineError
from naflex_deploy.runtime.packing.pack_stream import WINDOW
from tests.support.tiny import BUDGET


def photos(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (8 * (1 + i % 7), 88, 3), dtype=np.uint8) for i in range(count)]


def session_of(bundle: Path, threads: int) -> OnnxRuntimeSession:
    variant = nd.load(bundle).variant
    return OnnxRuntimeSession(bundle / variant.model, variant, threads, bundle)


class Watched:
    """A session for packs side by side that notes which of its two halves ran, and how many packs at once."""

    def __init__(self, session: OnnxRuntimeSession, note: list[str]) -> None:
        self.session, self.note = session, note
        self.workers = session.workers
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    @property
    def worker_is_loaded(self) -> bool:
        return self.session.worker_is_loaded

    def worker(self) -> Watched:
        found = Watched(self.session.worker(), self.note)
        found.run = self.run_beside  # type: ignore[method-assign]
        return found

    def run(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        self.note.append("alone")
        return self.session.run(pack, outputs)

    def run_beside(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
        self.note.append("beside")
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        found = self.session.worker().run(pack, outputs)
        with self.lock:
            self.now -= 1
        return found


def test_a_session_can_run_packs_side_by_side(bundle: Path) -> None:
    session = session_of(bundle, 2)
    assert isinstance(session, SideBySide)
    assert (session.workers, session.worker_is_loaded) == (2, False)
    assert session.worker() is session.worker()
    assert session.worker_is_loaded
    single = session_of(bundle, 1)
    assert single.worker() is single
    gone = weakref.ref(single)
    del single
    assert gone() is None  # No reference cycle keeps it alive, so its memory is freed at once.


@pytest.mark.parametrize(("flags", "exact"), [([], True), (["avx2", "avx512f"], True), (["avx2", "avx_vnni"], False)])
def test_products_that_saturate_are_avoided_where_a_cpu_has_no_others(
    monkeypatch, tmp_path: Path, flags, exact
) -> None:
    monkeypatch.setattr("naflex_deploy.core.machine.cpu_flags", lambda: flags)
    options = session_options(tmp_path)
    if exact:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="does not have"):
            options.get_session_config_entry("session.x64quantprecision")


def test_bf16_is_for_arm_cpus_that_have_it(bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The option has no effect on other CPUs, where an engine would silently run in float32."""
    assert session_options(tmp_path, "bf16").get_session_config_entry(BF16) == "1"
    with pytest.raises(RuntimeError, match="does not have"):
        session_options(tmp_path, "fp32").get_session_config_entry(BF16)
    backend, variant = find("onnxruntime"), nd.load(bundle).variant.model_copy(update={"precision": "bf16"})
    asked = resolve("photo", overrides={"engine.backends": ["onnxruntime"], "engine.precision": "bf16"}).profile
    automatic = resolve("photo", overrides={"engine.backends": ["onnxruntime"]}).profile
    for system, features, has in (("aarch64", "fp i8mm bf16", True), ("aarch64", "fp", False), ("x86_64", "", False)):
        monkeypatch.setattr(machine, "_first_cpu", lambda features=features: (f"Features\t: {features}",))
        monkeypatch.setattr(machine.platform, "machine", lambda system=system: system)
        assert (backend.refuses(variant) is None) == has
        precisions = [precision for _, precision in choose_all(automatic)]
        assert precisions == (["bf16", "fp32"] if has else ["fp32"])
        if not has:
            with pytest.raises(IncompatibleError, match="for Arm CPUs with bf16 alone"):
                choose_all(asked)


def test_short_lists_get_all_cores_and_long_ones_a_core_a_pack(bundle: Path) -> None:
    loaded = nd.load(bundle)
    images = photos(2 * WINDOW * BUDGET // 44)
    wanted = loaded.embed(images)
    note: list[str] = []
    session = Watched(session_of(bundle, 2), note)
    engine = Engine(session, loaded.manifest, loaded.variant)
    few = engine.embed(images[:3])
    assert set(note) == {"alone"}
    assert not session.worker_is_loaded
    note.clear()
    many = engine.embed(images)
    assert set(note) == {"beside"}
    assert session.most <= 2 + 1
    note.clear()
    equal = engine.embed([images[0]] * 6)
    assert note == ["beside", "beside"]
    for found, reference in ((few, wanted[:3]), (many, wanted), (equal, wanted[[0] * 6])):
        assert np.abs(found - reference).max() <= 1e-5 * np.abs(wanted).max()


def test_one_image_is_never_split_off_to_one_core(bundle: Path) -> None:
    loaded = nd.load(bundle)
    note: list[str] = []
    session = Watched(session_of(bundle, 2), note)
    session.worker()
    Engine(session, loaded.manifest, loaded.variant).embed(photos(1))
    assert note == ["alone"]


def test_a_failing_pack_ends_the_stream_with_its_error(bundle: Path) -> None:
    loaded = nd.load(bundle)

    class Failing(Watched):
        def run_beside(self, pack: Pack, outputs: Sequence[str]) -> Outputs:
            raise RuntimeError("the kernel failed")

    engine = Engine(Failing(session_of(bundle, 2), []), loaded.manifest, loaded.variant)
    with pytest.raises(EngineError, match="the engine failed: the kernel failed"):
        engine.embed(photos(2 * WINDOW * BUDGET // 44))


def test_a_graph_that_does_not_load_says_so(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(IncompatibleError, match=r"ONNX Runtime .* cannot load variant 'onnxruntime-cpu-fp32'"):
        OnnxRuntimeSession(tmp_path / "model.onnx", nd.load(bundle).variant)
