"""Directories that all processes of a test run share, because each takes seconds to make."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

FOLDER = "SHARED_TEST_FOLDER"
"""The environment variable that names the folder of a run."""


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The directory of that name, made by the process that asks first. Not to be changed.

    Args:
        name: Names what it holds; another thing needs another name.
        make: Fills the directory, which is there and empty.
    """
    folder = Path(os.environ[FOLDER], name)
    made = folder.with_name(f"{name}.made")
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # One that failed half-way.
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
