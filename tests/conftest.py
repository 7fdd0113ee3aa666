"""Settings for every test: how torch and timm are imported, which examples hypothesis draws, and shared fixtures.

The process that leads others of pytest-xdist runs no test. It imports nothing large, as the others wait for it. Modules
that are imported before `pytest_configure`, and import transformers or timm, import `tests.support.imports` first.
"""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from unittest.mock import patch

import pytest

from tests.support.shared import FOLDER


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder of what is shared, whose name the processes of pytest-xdist inherit, and prepare imports."""
    leads = not hasattr(config, "workerinput")
    if leads:
        os.environ[FOLDER] = tempfile.mkdtemp(prefix="naflex-tests-")
    if not leads or getattr(config.option, "dist", "no") == "no":
        import tests.support.imports  # noqa: F401

        _settle_examples()


def _settle_examples() -> None:
    """On a developer's machine every run draws other examples. Where CI is set, each run draws the same ones, so that
    chance turns no change red. Neither has a deadline: the time of one example depends on what else the machine does.
    """
    from hypothesis import settings

    settings.register_profile("local", deadline=None)
    settings.register_profile("ci", derandomize=True, deadline=None)
    settings.load_profile("ci" if os.environ.get("CI") else "local")


def pytest_unconfigure(config: pytest.Config) -> None:
    gc.unfreeze()
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ.pop(FOLDER))


def pytest_collection_finish() -> None:
    """Leave what was imported out of every later search for garbage: it is millions of objects, which all stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _shared_exports() -> Iterator[None]:
    from tests.support.exports import sharing

    with sharing():
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_witness() -> Iterator[None]:
    """Builds in tests start no process for the original, which takes seconds; the witness's own tests start it."""
    from naflex_deploy.compiler.witness import process

    with patch.object(process, "installed", lambda library: False):
        yield
