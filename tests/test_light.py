"""Running a bundle imports nothing that only building needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tiny import WIDTH, bundle, own_bundle

__all__ = ["bundle", "own_bundle"]

HEAVY = {"torch", "torchvision", "onnx", "onnxscript", "onnx_ir", "onnx_graphsurgeon", "polygraphy", "timm"}
HEAVY |= {
    "tokenizers",
    "model_signing",
    "cryptography",
    "transformers",
    "safetensors",
    "huggingface_hub",
    "scipy",
    "pandas",
    "matplotlib",
}
# Only the command line uses these, for printing.
HEAVY |= {"click", "rich"}


def imported(script: str) -> tuple[str, set[str]]:
    """Output of a script and the top-level modules it imported."""
    report = "\nimport json, sys\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", script + report], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *output, modules = done.stdout.splitlines()
    return "\n".join(output), set(json.loads(modules))


def test_the_first_result_needs_nothing_heavy(bundle: Path) -> None:
    output, modules = imported(f"""
import numpy as np
import naflex_deploy as nd
import naflex_deploy.runtime
engine = nd.load({str(bundle)!r})
image = np.zeros((20, 30, 3), np.uint8)
print(engine.embed([image]).shape, engine.tokens([image])[0].shape, engine.classify([image])[0][0].name != "")
""")
    assert output.startswith(f"(1, {WIDTH}) ")
    assert "onnxruntime" in modules
    assert not HEAVY & modules


def test_verifying_needs_nothing_heavy(own_bundle: Path) -> None:
    output, modules = imported(f"""
from pathlib import Path
from naflex_deploy.runtime.bundle.verify import verify
print(verify(Path({str(own_bundle)!r})).passed)
""")
    assert output == "True"
    assert not HEAVY & modules


@pytest.mark.parametrize("statement", ["import naflex_deploy", "import naflex_deploy.runtime"])
def test_importing_the_package_imports_next_to_nothing(statement: str) -> None:
    _, modules = imported(statement)
    assert not (HEAVY | {"numpy", "onnxruntime", "PIL", "pydantic"}) & modules
