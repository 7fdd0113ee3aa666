"""What makes the command line pleasant: near misses, one style of errors, completion, silence, tables that fit."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
from rich.console import Console

from naflex_deploy import __version__
from naflex_deploy.cli import COMMANDS, terminal
from naflex_deploy.cli.configuration import chosen_profile, resolve_options
from naflex_deploy.core.backends import FOLDERS, PACKAGES
from naflex_deploy.core.config import builtin_profiles
from naflex_deploy.core.manifest import Manifest
from naflex_deploy.core.profile.schema import profile_schema
from tests.cli.conftest import Run


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("embd",), "no command named 'embd'", "did you mean 'embed'?"),
        (("xyz",), "no command named 'xyz'", "known: bench, build"),
        (("embed", "b", "--resum"), "no such option '--resum'. Did you mean '--resume'?", "naflex-deploy embed --help"),
        (("embed",), "missing argument 'BUNDLE'", "naflex-deploy embed --help"),
        (("build", "--precision", "int3"), "invalid value for '--precision'", "naflex-deploy build --help"),
        (("bundle", "stripp"), "no command named 'stripp'", "did you mean 'strip'?"),
        (("build", "--model", "nowhere"), "expected --profile", "naflex-deploy profiles lists them"),
    ],
)
def test_every_error_is_a_line_and_a_hint(run: Run, arguments: tuple[str, ...], error: str, hint: str) -> None:
    result = run(*arguments)
    first, second = result.stderr.strip().splitlines()
    assert (result.exit_code, result.stdout) == (2, "")
    assert first.startswith(f"error: {error}")
    assert second.startswith(f"hint:  {hint}")


def test_an_interruption_is_an_error_of_its_own(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("naflex_deploy.cli.profiles.builtin_profiles", interrupted)
    result = run("profiles")
    assert (result.exit_code, result.stderr.strip()) == (130, "error: interrupted")


def test_the_version_names_every_backend(run: Run) -> None:
    first, *backends = run("--version").stdout.splitlines()
    assert first.startswith(f"naflex-deploy {__version__}, Python 3.")
    assert [line.split()[0] for line in backends] == list(PACKAGES) == list(FOLDERS)
    import onnxruntime

    assert backends[-1].split() == ["onnxruntime", "onnxruntime", onnxruntime.__version__]


def test_quiet_leaves_errors_and_json(run: Run, bundle: Path, images: Path, tmp_path: Path) -> None:
    result = run("embed", bundle, images, "-o", tmp_path / "a.npz", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    assert (tmp_path / "a.npz").exists()
    document = run("embed", bundle, images, "-q", "--json")
    assert json.loads(document.stdout)["command"] == "embed"
    refused = run("embed", bundle, tmp_path / "none.png", "-q")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "no such file" in refused.stderr
    assert run("embed", bundle, images).stdout != "", "silence ends with the command"


def test_every_command_can_be_quiet(run: Run) -> None:
    for name in COMMANDS:
        if name != "bundle":
            assert "--quiet" in run(name, "--help").stdout, name
    assert "--quiet" in run("bundle", "strip", "--help").stdout


def test_a_shell_completes_commands_without_importing_them(run: Run) -> None:
    for shell, mark in (("zsh", "#compdef naflex-deploy"), ("fish", "complete --no-files --command naflex-deploy")):
        assert mark in run("completion", shell).stdout
    environment = os.environ | {
        "_NAFLEX_DEPLOY_COMPLETE": "zsh_complete",
        "COMP_WORDS": "naflex-deploy b",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-X", "importtime", "-m", "naflex_deploy"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[::3][:3] == ["plain", "plain", "plain"]
    assert done.stdout.split("\n")[1::3][:3] == ["build", "bench", "bundle"]
    assert "naflex_deploy.cli.embed" not in done.stderr
    assert "naflex_deploy.runtime" not in done.stderr


def test_bash_takes_the_script(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(run("completion", "bash").stdout)
    check = f". {script} && complete -p naflex-deploy"
    assert "naflex_deploy_completion" in subprocess.run(["bash", "-c", check], capture_output=True, text=True).stdout


def test_a_table_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(width=40, force_terminal=True, soft_wrap=True, record=True, file=io.StringIO())
    monkeypatch.setattr(terminal, "out", console)
    path = "a/rather/long/path/of/a/picture/that/does/not/fit.png"
    terminal.print_table("", ["image", "tokens"], [[path, "1,024"], ["b.png", "5"]])
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 40
    assert path in "".join(line[:33].strip() for line in lines)
    assert any(line.rstrip().endswith("1,024") for line in lines)


def test_the_profile_follows_where_only_one_makes_sense(run: Run, bundle: Path) -> None:
    assert chosen_profile(None, "demo") == "doc-ocr"
    assert chosen_profile("photo", "demo", bundle) == "photo"
    manifest = Manifest.read(bundle)
    found = resolve_options(chosen_profile(None, None, bundle), None, (), "onnxruntime", None, None)
    assert found.profile == manifest.config
    assert (found.origins["image.tokens"], found.origins["engine.backends"]) == ("bundle", "--backend")
    result = run("build", "-o", bundle)
    assert (result.exit_code, "exists already" in result.stderr) == (2, True)
    assert "profile doc-ocr, for which the demo model was trained" in result.stderr


def test_the_schema_of_profiles_takes_what_is_a_profile_and_nothing_else(run: Run) -> None:
    schema = json.loads(run("profiles", "--schema").stdout)
    assert schema == profile_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for file in builtin_profiles().values():
        validator.validate(tomllib.loads(file.read_text(encoding="utf-8")))
    own = {"extends": "photo", "engine": {"memory_limit": "8GiB"}, "image": {"range": [0, 4095], "tokens": 99}}
    validator.validate(own)
    for wrong in (
        {"extends": "photo", "imge": {}},
        {"extends": "photo", "image": {"tokns": 5}},
        {"extends": "photo", "image": {"tokens": 0}},
        {"extends": "photo", "engine": {"memory_limit": "8 buckets"}},
        {"extends": "photo", "engine": {"backends": ["tensorflow"]}},
        {"image": {"tokens": 5}},
    ):
        assert not validator.is_valid(wrong), wrong
