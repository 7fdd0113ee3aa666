"""Settings for every test: how torch and timm are imported, which examples hypothesis draws, and shared fixtures."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch
from hypothesis import settings

from naflex_deploy.compiler.witness import process
from tests.support.exports import FOLDER, shared_exports

__all__ = ["shared_exports"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of shared exports; the processes of pytest-xdist inherit its name."""
    if not hasattr(config, "workerinput"):
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="naflex-exports-")


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(FOLDER))


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later search for garbage: it is millions of objects, which all stay."""
    gc.collect()
    gc.freeze()


def _import_torchvision() -> None:
    """Make timm and transformers importable beside any build of torch, before a test imports them.

    Both import torchvision. Its wheel registers fake kernels for operators that its compiled half defines, and that
    half loads only beside the torch build it was made for. No test needs those operators: their registration is
    skipped while torchvision is imported once.
    """
    register_fake = torch.library.register_fake

    def skipping(op, *args, **kwargs):
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register_fake(op, *args, **kwargs)

    torch.library.register_fake = skipping
    try:
        import torchvision  # noqa: F401
    finally:
        torch.library.register_fake = register_fake


_import_torchvision()
torch.set_num_threads(1)

# On a developer's machine every run draws other examples. Where CI is set, each run draws the same ones, so that chance
# turns no change red. Neither has a deadline: the time of one example depends on what else the machine does.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", derandomize=True, deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session", autouse=True)
def _no_witness() -> Iterator[None]:
    """Builds in tests start no process for the original, which takes seconds; the witness's own tests start it."""
    with patch.object(process, "installed", lambda library: False):
        yield
