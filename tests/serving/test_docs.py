"""The commands in the documentation work as written."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving.support import pixels, png, running

COMMANDS = [
    command
    for block in re.findall(
        r"```bash\n(.*?)```", (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8"), re.DOTALL
    )
    for command in re.split(r"(?<!\|)\n", block.strip())
]


@pytest.fixture(scope="module")
def url():
    with running(names=("doc-ocr",)) as server:
        yield server.url


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("images")
    # The file is as large as a photo, because systems limit the size of a command's argument.
    for seed, name in enumerate(("page.png", "receipt.png")):
        (found / name).write_bytes(png(pixels(seed, 240, 320)))
        assert (found / name).stat().st_size > 1 << 17
    return found


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("command", COMMANDS)
def test_curl_examples(command, url, folder):
    assert "curl -sf http://127.0.0.1:8000/" in command
    command = command.replace("http://127.0.0.1:8000", url)
    found = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=30)
    assert found.returncode == 0, found.stderr
    for path, expected in {
        "/v1/embeddings": '"embedding":',
        "/v1/classify": '"label":"',
        "/v1/models": '"id":"doc-ocr"',
        "/infer": '"model_name":"doc-ocr"',
        "/metrics": "naflex_queue_tokens",
    }.items():
        if path in command:
            assert expected in found.stdout


def test_there_are_examples_of_every_kind():
    assert len(COMMANDS) == 8
