"""The other commands: their output, their exit codes, and that stdout holds only results."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import onnx
import pytest
from packaging.requirements import Requirement
from safetensors.torch import load_file, save_file

from naflex_deploy.cli import COMMANDS
from naflex_deploy.cli.doctor import extras
from naflex_deploy.cli.terminal import print_table, reports_errors
from naflex_deploy.core.config import builtin_profiles
from naflex_deploy.core.profile import Profile
from tests.cli.conftest import Run
from tests.support.manifests import edit


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(run: Run, name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"  naflex-deploy {name} " in result.stdout, "the help of a command gives an example"
    # A server prints no result, a group prints the results of its commands, and a script is no document.
    assert name in ("serve", "bundle", "completion") or "--json" in result.stdout


@pytest.mark.parametrize("name", ["rebuild", "strip", "sign"])
def test_every_command_on_bundles_has_an_example(run: Run, name: str) -> None:
    assert f"  naflex-deploy bundle {name} build/photo" in run("bundle", name, "--help").stdout


def test_help_lists_every_command_in_full_and_imports_none(run: Run) -> None:
    lines = [line.split(maxsplit=1) for line in run("--help").stdout.splitlines()]
    assert all([name, summary] in lines for name, summary in COMMANDS.items())
    script = (
        "import sys\nfrom naflex_deploy.cli import main\nmain(['--help'], standalone_mode=False)\nprint(*sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert not [name for name in printed.split() if name.startswith(("naflex_deploy.runtime", "naflex_deploy.bench"))]


def test_numbers_of_a_table_stand_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("", ["name", "tokens", "ms"], [["a", 5, "1 (0.5-2)"], ["bb", "1,024", "-"]])
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "name  tokens  ms",
        "a          5  1 (0.5-2)",
        "bb     1,024  -",
    ]


def test_a_disk_that_is_full_anywhere_is_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    @reports_errors
    def command(number: int) -> None:
        raise OSError(number, os.strerror(number), "/some/folder/file")

    with pytest.raises(SystemExit) as caught:
        command(errno.ENOSPC)
    assert caught.value.code == 2
    assert "error: cannot write /some/folder/file: No space left on device" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError):
        command(errno.ENOENT)


def test_doctor_knows_the_packages_of_every_extra() -> None:
    declared = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for extra, lines in declared["optional-dependencies"].items():
        own = {Requirement(line).name for line in lines} - {declared["name"]}
        assert extra == "dev" or own <= set(extras()[extra])
    assert "dev" not in extras()


def test_json_is_one_versioned_document(run: Run, bundle: Path) -> None:
    for arguments in (
        ("plan", "--profile", "photo"),
        ("verify", bundle),
        ("inspect", bundle),
        ("profiles",),
        ("profiles", "edge"),
        ("doctor",),
    ):
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        document = json.loads(result.stdout)
        assert (document["schema"], document["command"]) == (1, arguments[0])


def test_a_printed_profile_is_a_profile(run: Run) -> None:
    for name in builtin_profiles():
        printed = tomllib.loads(run("profiles", name).stdout)
        parsed = Profile.parse(printed, source=lambda path: "printed")
        assert parsed.name == name


def test_without_a_model_build_says_that_it_takes_the_demo(run: Run, bundle: Path) -> None:
    result = run("build", "--profile", "photo", "-o", bundle)
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert "DEMO MODEL" in result.stderr
    assert result.stdout == ""


def test_build_refusals_leave_nothing(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    name = "vision_model.encoder.layers.1.mlp.fc1.weight"

    def variation(label: str, **tensors: object) -> Path:
        path = tmp_path / label
        shutil.copytree(checkpoint, path)
        save_file({k: v for k, v in (weights | tensors).items() if v is not None}, path / "model.safetensors")
        return path

    missing = variation("missing", **{name: None})
    misshaped = variation("misshaped", **{name: weights[name][:, :5].contiguous()})
    extra = variation("extra", **{"vision_model.surprise": weights[name].clone()})
    pickled = tmp_path / "pickled"
    shutil.copytree(checkpoint, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    cut = variation("cut")
    (cut / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes()[:1000])
    output = tmp_path / "bundle"
    for arguments, expected in (
        (("--profile", "photo", "--model", missing), (name, "is missing")),
        (("--profile", "photo", "--model", misshaped), (name, "expected shape [48, 32], found [48, 5]")),
        (("--profile", "photo", "--model", extra), ("unexpected tensor", "surprise")),
        (("--profile", "photo", "--model", pickled), ("pytorch_model.bin", "pickle")),
        (("--profile", "photo", "--model", cut), ("model.safetensors is damaged",)),
        (("--profile", "photo", "--model", tmp_path / "none"), ("no model at",)),
        (("--profile", "photoo", "--model", checkpoint), ("did you mean 'photo'?",)),
        (("--profile", "photo", "--set", "image.tokens=0"), ("image.tokens", "greater than 0", "found 0")),
        (("--profile", "photo", "--set", "engine.precision=int3"), ("engine.precision", "fp32", "found 'int3'")),
        (("--profile", "photo", "--precision", "int3"), ("--precision", "fp32", "'int3'")),
        (("--profile", "photo", "--target", "86"), ("--target: engine.tensorrt.targets", "found '86'")),
    ):
        result = run("build", *arguments, "-o", output)
        assert result.exit_code == 2, result.stderr
        assert all(part in result.stderr for part in expected), result.stderr
    assert not [path for path in tmp_path.iterdir() if "bundle" in path.name]


def test_a_backend_that_cannot_be_built_here_exits_4(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    result = run("build", "--profile", "photo", "--backend", "tensorrt", "--model", checkpoint, "-o", tmp_path / "b")
    assert result.exit_code == 4
    assert "tensorrt" in result.stderr
    assert not (tmp_path / "b").exists()


def test_a_variant_is_built_into_a_bundle_of_its_model_alone(
    run: Run, bundle: Path, checkpoint: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(bundle, tmp_path / "own")
    outputs = ("--set", "outputs=['tokens', 'pooled']")
    arguments = ("build", "--profile", "photo", "--backend", "onnxruntime", *outputs, "--into", own)
    result = run(*arguments, "--model", checkpoint, "--json")
    assert result.exit_code == 0, result.stderr
    before = (own / "manifest.json").read_bytes()
    other = shutil.copytree(checkpoint, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, other / "model.safetensors")
    for more, expected in (
        (("--model", other), "found " + str(other)),
        (("--model", checkpoint, "--set", "image.tokens=99"), "was built with image.tokens = 256, found 99"),
        (("--model", checkpoint, "-o", tmp_path / "b"), "--into only adds a variant"),
        (("--model", checkpoint, "--force"), "--into only adds a variant"),
    ):
        result = run(*arguments, *more)
        assert result.exit_code == 2
        assert expected in result.stderr
    assert (own / "manifest.json").read_bytes() == before
    assert run(*arguments[:-1], tmp_path / "none", "--model", checkpoint).exit_code == 4


def test_an_edge_copy_is_stripped(run: Run, bundle: Path, tmp_path: Path) -> None:
    arguments = ("bundle", "strip", bundle, "--variant", "onnxruntime-cpu-fp32", "-o", tmp_path / "edge")
    document = json.loads(run(*arguments, "--json").stdout)
    assert document["command"] == "bundle strip"
    assert "portable.onnx" not in document["files"]
    assert run("verify", tmp_path / "edge").exit_code == 0
    assert run(*arguments).exit_code == 2
    refused = run("bundle", "rebuild", tmp_path / "edge")
    assert (refused.exit_code, "rebuild the bundle that this one was stripped from" in refused.stderr) == (2, True)


def test_verify_sees_a_flipped_byte(run: Run, bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    target = next(copy.glob("variants/*/model.onnx"))
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    for arguments in (("verify", copy), ("embed", copy, bundle / "manifest.json")):
        result = run(*arguments)
        assert result.exit_code == 4
        assert "was changed" in result.stderr


def test_verify_fills_the_gate_and_writes_a_report(run: Run, bundle: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    edit(copy, lambda content: content["variants"][0].update(gate={"status": "unmeasured"}))
    result = run("verify", copy)
    assert result.exit_code == 0, result.output
    gate = json.loads((copy / "manifest.json").read_text())["variants"][0]["gate"]
    assert gate["status"] == "passed"
    assert gate["executed"]["cpu"]
    assert len(list((copy / "reports").glob("verify-*.json"))) == 1


def test_plan_says_how_fine_pages_are_seen(run: Run) -> None:
    def pages(*settings: str) -> dict[str, dict[str, object]]:
        arguments = [argument for setting in settings for argument in ("--set", setting)]
        result = run("plan", "--profile", "photo", *arguments, "--json")
        assert result.exit_code == 0, result.output
        return {page["paper"]: page for page in json.loads(result.stdout)["pages"]}

    filled = pages("image.tokens=1024")
    assert (filled["Letter"]["images"], filled["Letter"]["tokens"]) == (1, 28 * 36)
    assert filled["Letter"]["dpi"] == min(round(28 * 16 / 8.5), round(36 * 16 / 11))
    tiled = pages("image.tokens=1024", "image.oversize=tiles", "image.dpi=200")
    assert 200 <= tiled["A4"]["dpi"] < 203
    assert tiled["A4"]["tokens"] > 200**2 * 8.27 * 11.69 / 256
    refused = pages("image.fit=pad-to-patch", "image.oversize=error")
    assert (refused["A4"]["images"], refused["A4"]["dpi"]) == (0, 0)
    assert "warning: A4, Letter" in run("plan", "--profile", "photo").stdout
    assert "small print" not in run("plan", "--profile", "photo", "--set", "image.oversize=tiles").stdout


def test_plan_shows_where_values_come_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAFLEX_DEPLOY_IMAGE__TOKENS", "100")
    arguments = ("plan", "--profile", "photo", "--set", "packing.max_images=3")
    rows = [line.rstrip().split(maxsplit=2) for line in run(*arguments).stdout.splitlines()]
    assert ["image.tokens", "100", "NAFLEX_DEPLOY_IMAGE__TOKENS"] in rows
    assert ["packing.max_images", "3", "--set"] in rows
    document = json.loads(run(*arguments, "--json").stdout)
    assert document["image_tokens"] == 100
    assert document["origins"]["image.tokens"] == "NAFLEX_DEPLOY_IMAGE__TOKENS"
    assert document["origins"]["packing.max_images"] == "--set"
    assert document["origins"]["image.fit"] == "profile photo"
    assert document["origins"]["gate.min_cosine"] == "default"


def test_inspect_shows_the_graph_before_and_after(run: Run, bundle: Path) -> None:
    lines = run("inspect", bundle).stdout.splitlines()
    rows = [line.split() for line in lines]
    variant = json.loads((bundle / "manifest.json").read_text())["variants"][0]
    graph = onnx.load(bundle / variant["model"], load_external_data=False)
    layer_norms = sum(node.op_type == "LayerNormalization" for node in graph.graph.node)
    portable = onnx.load(bundle / "portable.onnx", load_external_data=False)
    softmaxes = sum(node.op_type == "Softmax" for node in portable.graph.node)
    assert layer_norms
    assert softmaxes
    assert ["LayerNormalization", str(layer_norms), str(layer_norms)] in rows
    assert ["Softmax", str(softmaxes), "0"] in rows
    assert any(row[:2] == ["fuse_attention", str(softmaxes)] for row in rows)


def test_inspect_describes_a_checkpoint_without_building(run: Run, checkpoint: Path) -> None:
    document = json.loads(run("inspect", checkpoint, "--json").stdout)
    assert document["buildable"]
    assert document["architecture"]["width"] == 32
    assert document["labels"] == ["cat", "dog", "[owl]"]
    assert document["parameters"] == sum(
        tensor.numel() for tensor in load_file(checkpoint / "model.safetensors").values()
    )
    assert "cat, dog, [owl]" in run("inspect", checkpoint).stdout
    demo = json.loads(run("inspect", "demo", "--json").stdout)
    assert (demo["buildable"], len(demo["labels"])) == (True, 10)


def test_inspect_tells_a_checkpoint_that_cannot_be_built_from_none(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "vit"}')
    refused = run("inspect", foreign)
    assert (refused.exit_code, "cannot be built" in refused.stdout) == (0, True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "empty").mkdir()
    files = (f"bv:{tmp_path}/none.npz", f"timm:naflexvit_base_patch16_gap:{tmp_path}/none.safetensors")
    for source in ("random:siglip2-bas", "timm:nope", *files, "hf:no/such", tmp_path / "empty"):
        found = run("inspect", source)
        assert (found.exit_code, found.stdout) == (2, ""), source
        assert "Traceback" not in found.stderr
    assert "did you mean 'siglip2-base'" in run("inspect", "random:siglip2-bas").stderr


def test_another_patch_size_is_built_in(run: Run, checkpoint: Path, tmp_path: Path) -> None:
    arguments = ("--profile", "photo", "--backend", "onnxruntime", "--model", checkpoint, "--patch-size", "8")
    result = run("build", *arguments, "-o", tmp_path / "b", "--json")
    assert result.exit_code == 0, result.stderr
    manifest = json.loads(result.stdout)["manifest"]
    assert manifest["preprocessing"]["patch_size"] == 8
    assert manifest["inputs"][0]["shape"] == ["tokens", 8 * 8 * 3]
