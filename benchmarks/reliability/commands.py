"""Runs of the command line, in forked children of a process that has imported everything: hundreds take minutes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image

from naflex_deploy import load
from naflex_deploy.cli import main

for module in (
    *("onnxruntime", "pyarrow.parquet", "model_signing.signing", "naflex_deploy.cli.embed", "naflex_deploy.cli.bundle"),
    *("naflex_deploy.runtime.backends.onnxruntime.session", "naflex_deploy.runtime.backends.onnxruntime.backend"),
    *("naflex_deploy.runtime.bundle.strip", "naflex_deploy.runtime.bundle.signature", "naflex_deploy.cli.verify"),
    *("naflex_deploy.runtime.bundle.verify", "naflex_deploy.serving.triton_server.repository"),
):
    import_module(module)

NEW_PROCESS_NAMESPACE = 0x20000000
VARIANT = "onnxruntime-cpu-fp32"


@dataclass(frozen=True)
class Ended:
    """A run that has ended.

    Attributes:
        code: Its exit code; minus the signal that killed it.
        said: What it printed on stdout and stderr.
    """

    code: int
    said: str

    @property
    def refused(self) -> bool:
        """Whether it ended with one message, as a run that may not write should."""
        return self.code == 2 and self.said.count("error:") == 1 and "Traceback" not in self.said


class Run:
    """A run of the command line in a child process.

    Args:
        arguments: As on the command line.
        stopped: The child stops itself before it does anything, for a tracer to be attached.
        container: The child is process 1 of a process namespace of its own, as in a container.
        environment: Added to the child's environment.
    """

    def __init__(
        self,
        *arguments: object,
        stopped: bool = False,
        container: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115
        self.pid = os.fork()
        if self.pid == 0:
            self._child([str(argument) for argument in arguments], stopped, container, environment or {})

    def _child(self, arguments: list[str], stopped: bool, container: bool, environment: dict[str, str]) -> None:
        for descriptor in (1, 2):
            os.dup2(self._output.fileno(), descriptor)
        os.environ.update(environment)
        if container:
            if ctypes.CDLL(None, use_errno=True).unshare(NEW_PROCESS_NAMESPACE):
                os._exit(99)
            inner = os.fork()
            if inner:
                os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]) & 0xFF)
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            main(arguments, standalone_mode=True)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.pid, signal.SIGKILL)

    def ended(self) -> bool:
        """Whether it has ended."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def wait(self) -> Ended:
        """Wait until it has ended."""
        status = os.waitpid(self.pid, 0)[1]
        self._output.seek(0)
        with self._output:
            return Ended(os.waitstatus_to_exitcode(status), self._output.read().decode(errors="replace"))


def run(*arguments: object, **options: object) -> Ended:
    """A run from its beginning to its end."""
    return Run(*arguments, **options).wait()  # type: ignore[arg-type]


def built(folder: Path) -> Path:
    """A bundle of the demo checkpoint that takes 64 tokens an image, built once."""
    bundle = folder / "bundle"
    if not bundle.exists():
        options = ("--profile", "photo", "--model", "demo", "--backend", "onnxruntime", "--set", "image.tokens=64")
        options += ("--set", "outputs=['pooled', 'tokens']")
        command = [sys.executable, "-m", "naflex_deploy", "build", *options, "-o", str(bundle)]
        subprocess.run(command, check=True, capture_output=True)
    return bundle


def drawn(folder: Path, count: int) -> list[Path]:
    """Images that all differ."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:04}.png" for number in range(count)]
    for path in paths:
        height, width = rng.integers(60, 200, 2)
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        if not path.exists():
            coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(path, compress_level=1)
    return paths


def truth(bundle: Path, paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """The right vector of each image, by its path. In a child, as forking needs a process without threads."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        child = os.fork()
        if child == 0:
            np.save(file.name, load(bundle).embed(paths))
            os._exit(0)
        os.waitpid(child, 0)
        return {str(path): vector for path, vector in zip(paths, np.load(file.name), strict=True)}


def wrong(output: Path, expected: dict[str, np.ndarray]) -> tuple[int, int]:
    """Vectors in an archive, and those of them that are not the right one of their path."""
    with np.load(output) as arrays:
        found = dict(zip(arrays["path"].tolist(), arrays["embedding"], strict=True))
        count = len(arrays["path"])
    bad = sum(
        np.abs(vector - expected[path]).max() > 1e-3 * np.abs(expected[path]).max() for path, vector in found.items()
    )
    return count, int(bad) + count - len(found)


def left(folder: Path) -> list[str]:
    """Names of everything in a folder and below."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
