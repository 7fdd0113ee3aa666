"""`push` and `pull`, with a stand-in of the hub on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.support.hub import TOKEN, commit, serving


def test_push_and_pull(run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub", tmp_path / "cache") as hub:
        result = run("push", bundle, "team/photo", "--json")
        assert result.exit_code == 0, result.output
        revision = commit(hub.root / "team/photo")
        assert json.loads(result.stdout)["commit"] == revision
        result = run("pull", f"team/photo@{revision}", "-o", tmp_path / "copy")
        assert result.exit_code == 0, result.output
        assert "pulled hf:team/photo@" in result.stdout
        assert run("verify", tmp_path / "copy").exit_code == 0
        assert run("pull", "team/photo", "-o", tmp_path / "copy").exit_code == 2
        assert run("pull", "photo", "-o", tmp_path / "other").exit_code == 2
        assert run("push", tmp_path, "team/photo").exit_code == 4
