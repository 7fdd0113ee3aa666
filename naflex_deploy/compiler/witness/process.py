"""Starting the process that runs the original, and waiting for its answer."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from naflex_deploy.compiler.witness.request import Request, images

SECONDS = 1800
"""Longest wait for the original."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What the original said.

    Attributes:
        reason: Why it could not be asked; empty where it could.
        original: Class and library.
        outputs: By name, and for those of an image ``NAME/INDEX``.
    """

    reason: str = ""
    original: str = ""
    outputs: Mapping[str, npt.NDArray[np.float32]] = dataclasses.field(default_factory=dict)


class Asked:
    """A process that runs the original while the build goes on.

    Args:
        request: What it is asked for.
    """

    def __init__(self, request: Request) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="naflex-witness-"))
        (self._folder / "request.json").write_text(json.dumps(dataclasses.asdict(request)), encoding="utf-8")
        arrays: dict[str, Any] = {
            str(index): pixels for index, pixels in enumerate(images(request.patch_size, request.sizes))
        }
        np.savez(self._folder / "images.npz", **arrays)
        command = [sys.executable, "-m", "naflex_deploy.compiler.witness.worker", str(self._folder)]
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        # Files, not pipes, which fill up while nobody reads them.
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **offline}
            )

    def wait(self) -> Answer:
        """The answer, once the process has ended."""
        try:
            self._process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            return Answer(reason=f"the original did not answer within {SECONDS} s")
        path = self._folder / "answer.json"
        if not path.exists():
            lines = (self._folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = lines[-1] if lines else "no message"
            return Answer(reason=f"the process of the original ended with {self._process.returncode}: {last}")
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "reason" in content:
            return Answer(reason=content["reason"])
        with np.load(self._folder / "outputs.npz") as file:
            return Answer(original=content["original"], outputs={name: file[name] for name in file.files})

    def close(self) -> None:
        """End the process if it still runs, and remove its files."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def asking(request: Request | None) -> Iterator[Asked | None]:
    """A process for the length of the block; none without a request."""
    asked = Asked(request) if request else None
    try:
        yield asked
    finally:
        if asked:
            asked.close()


def installed(library: str) -> bool:
    """Whether there is such a package, be it one that does not import."""
    return importlib.util.find_spec(library) is not None
