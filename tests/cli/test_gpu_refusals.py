"""The messages to users without a GPU, with another GPU, or without the library: one line, exit 4, a row of doctor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from naflex_deploy.core.manifest import FileEntry, Manifest, Variant
from naflex_deploy.runtime.backends import cuda_device
from naflex_deploy.runtime.backends.cuda_device import Device
from naflex_deploy.runtime.backends.tensorrt import backend as tensorrt_backend
from naflex_deploy.runtime.backends.tensorrt import library as tensorrt_library
from tests.cli.conftest import Run
from tests.support.fake_gpu import plan_bytes

NO_DRIVER = "there is no NVIDIA driver (libcuda.so.1 is missing; CUDA calls it error 35)"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--backend", "tensorrt"), "tensorrt: TensorRT is not installed"),
        (("--backend", "tensorrt-rtx", "--target", "sm90"), "TensorRT-RTX has no sm90"),
        (("--backend", "tensorrt-rtx", "--target", "sm75", "--precision", "bf16"), "sm75 has no bf16"),
        (("--backend", "tensorrt-rtx", "--set", "engine.memory_limit=1000"), "engine.memory_limit is 0 MB"),
        (("--backend", "tensorrt-rtx", "--set", "engine.tensorrt.attention=plugin"), "plugins need TensorRT 10.16"),
    ],
)
def test_a_build_is_refused_in_a_line(
    run: Run, checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    small = ("--set", "packing.budgets=[64]", "--set", "image.tokens=64", "--set", "packing.max_images=4")
    result = run("build", "--profile", "photo", "--model", checkpoint, "-o", tmp_path / "b", *small, *arguments)
    assert result.exit_code == 4, result.output
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "b").exists()


def rows(run: Run, *bundle: Path) -> dict[str, tuple[str, str]]:
    checks = json.loads(run("doctor", *bundle, "--json").stdout)["checks"]
    return {check["what"]: (check["found"], check["remedy"]) for check in checks}


def test_doctor_without_a_driver(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: NO_DRIVER)
    monkeypatch.setattr(tensorrt_library, "installed", {"tensorrt-rtx": "1.7.1.116"}.get)
    found = rows(run)
    assert found["gpu"][0] == NO_DRIVER
    assert "can be built here, but not run" in found["gpu"][1]
    assert found["tensorrt"] == ("not installed", "pip install 'naflex-deploy[tensorrt]'")
    assert found["tensorrt-rtx"] == ("1.7.1.116", f"it runs no engine here: {NO_DRIVER}")
    assert found["onnxruntime-cuda"] == ("unavailable", f"it runs no engine here: {NO_DRIVER}")
    assert "they need tensorrt" in found["plugins for tensorrt"][1]


@pytest.fixture
def with_engine(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that holds an engine of TensorRT-RTX, too."""
    path = Path(shutil.copytree(bundle, tmp_path / "with-engine"))
    manifest = Manifest.read(path)
    plan = path / "variants" / "engine" / "engine.plan"
    plan.parent.mkdir()
    plan.write_bytes(plan_bytes())
    profiles = [{"tokens": 64, "images": 4, "rows": 1, "row_tokens": 64}]
    told = {"activation_bytes": 3_000_000, "layers": 52, "fused_attentions": 2, "datatypes": {"Half": 52}}
    engine = Variant(
        name="tensorrt-rtx1.7-sm89-fp16",
        backend="tensorrt-rtx",
        target="sm89",
        precision="fp16",
        model="variants/engine/engine.plan",
        budgets=[64],
        profiles=profiles,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        passes=[
            {"pass": "attention", "form": "packed", "refused": "no kernel"},
            {"pass": "attention", "form": "rows"},
            {"pass": "precision", "precision": "fp16"},
        ],
        versions={"tensorrt-rtx": "1.7.1.116"},
        build={"weights_bytes": 10**6, "profiles": [told]},
    )
    files = manifest.files | FileEntry.below(path, "variants/engine/")
    changed = manifest.model_copy(update={"variants": [*manifest.variants, engine], "files": files})
    (path / "manifest.json").write_text(changed.to_json(), encoding="utf-8")
    return path


def test_inspect_shows_what_the_builder_told(run: Run, with_engine: Path) -> None:
    lines = [" ".join(line.split()) for line in run("inspect", with_engine).stdout.splitlines()]
    assert "attention packed no kernel" in lines
    assert "attention rows" in lines
    assert "64 tokens, 4 images, 1 rows, 64 row tokens 3.0 MB 52 2" in lines


@pytest.mark.parametrize(
    ("here", "found", "remedy"),
    [
        (NO_DRIVER, "does not run here", NO_DRIVER),
        (Device("A10", "sm86", 10**10, "13.0"), "does not run here", "it was built for sm89, found sm86 (A10)"),
        (Device("L4", "sm89", 10**6, "13.0"), "does not run here", "it needs 0.0 GB of GPU memory"),
        (Device("L4", "sm89", 10**10, "12.4"), "does not run here", "was built for CUDA 13"),
        (Device("L4", "sm89", 10**10, "13.0"), "runs here", ""),
    ],
)
def test_doctor_says_of_each_variant_whether_it_runs_here(
    run: Run, with_engine: Path, monkeypatch: pytest.MonkeyPatch, here: Device | str, found: str, remedy: str
) -> None:
    monkeypatch.setattr(cuda_device, "find", lambda: here)
    monkeypatch.setattr(tensorrt_library, "installed", {"tensorrt-rtx": "1.7.1.116"}.get)
    monkeypatch.setattr(tensorrt_library, "cuda_needed", lambda backend: 13)
    said = rows(run, with_engine)
    assert said["variant onnxruntime-cpu-fp32"] == ("runs here", "")
    verdict, why = said["variant tensorrt-rtx1.7-sm89-fp16"]
    assert verdict == found
    assert remedy in why
    assert bool(why) == bool(remedy)


def test_doctor_says_of_a_damaged_plan_what_it_found(run: Run, with_engine: Path) -> None:
    plan = with_engine / "variants" / "engine" / "engine.plan"
    plan.write_bytes(plan.read_bytes()[:80])
    assert "expected 100 bytes, found 80" in rows(run, with_engine)["variant tensorrt-rtx1.7-sm89-fp16"][1]
    plan.write_bytes(b"ftrt" + bytes(96))
    verdict, why = rows(run, with_engine)["variant tensorrt-rtx1.7-sm89-fp16"]
    assert (verdict, "was changed: expected sha256" in why) == ("damaged", True)


def test_doctor_on_a_gpu_that_not_everything_runs_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_library, "installed", {"tensorrt": "11.4.0", "tensorrt-rtx": "1.7.1.116"}.get)
    monkeypatch.setattr(tensorrt_backend, "_triton", lambda: "3.5.0")
    monkeypatch.setattr(cuda_device, "find", lambda: Device("H200", "sm90", 10**11, "13.0"))
    found = rows(run)
    assert found["gpu"] == ("H200 (sm90, 93 GiB, driver for CUDA 13.0)", "")
    assert found["tensorrt"] == ("11.4.0", "")
    assert "found sm90 (H200)" in found["tensorrt-rtx"][1]
    assert "the installed ONNX Runtime has no CUDA provider" in found["onnxruntime-cuda"][1]
    assert found["plugins for tensorrt"] == ("triton 3.5.0, tensorrt 11.4.0", "")
    monkeypatch.setattr(cuda_device, "find", lambda: Device("T4", "sm75", 10**10, "13.0"))
    assert rows(run)["gpu"][1] == "this GPU has no bf16: use --precision fp16"
