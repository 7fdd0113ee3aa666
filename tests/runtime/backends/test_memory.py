"""What becomes of a bundle's files does not matter to an engine that is loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import naflex_deploy
from naflex_deploy.core.errors import BundleError
from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.backends.memory import leased
from naflex_deploy.runtime.backends.session import Session, SideBySide
from naflex_deploy.runtime.loading import load_engine
from tests.support.tiny import bundle

__all__ = ["bundle"]

IMAGES = [np.random.default_rng(n).integers(0, 256, (40 + n, 60, 3), dtype=np.uint8) for n in range(40)]


def weights(bundle: Path) -> list[Path]:
    return [path for path in bundle.rglob("*.data") if path.stat().st_size]


def overwrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(np.full(path.stat().st_size // 4, 3.0, np.float32).tobytes())


@pytest.mark.parametrize("change", [overwrite, lambda path: os.truncate(path, 0), Path.unlink])
def test_files_that_change_under_an_engine_change_no_result(
    bundle: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """Also of the second session, which a long stream loads later."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    engine = naflex_deploy.load(copy)
    expected = naflex_deploy.load(bundle).embed(IMAGES)
    assert weights(copy)
    assert str(copy) not in Path("/proc/self/maps").read_text()
    for path in weights(copy):
        change(path)
    np.testing.assert_allclose(engine.embed(IMAGES), expected, atol=1e-5)
    with pytest.raises(BundleError):
        naflex_deploy.load(copy)


TRUNCATED_MEANWHILE = """
import mmap, subprocess, sys, time
from pathlib import Path
from naflex_deploy.runtime.backends.memory import detached

file = Path(sys.argv[1])
with file.open("rb") as stream:
    pages = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
with detached([file]):
    script = "import os, sys; print('now', flush=True); os.truncate(sys.argv[1], 0)"
    cut = subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE)
    cut.stdout.readline()
    time.sleep(0.1)
    assert pages[-1] == 7, "the last page is there"
assert cut.wait(10) == 0 and file.stat().st_size == 0, "whoever waited goes on"
"""


def test_a_file_that_is_truncated_while_it_is_loaded_keeps_its_pages(tmp_path: Path) -> None:
    """In a process of its own: without the lease, the kernel ends it with SIGBUS."""
    file = tmp_path / "weights"
    file.write_bytes(bytes(100_000) + b"\7")
    with leased(file) as held:
        if not held:
            pytest.skip(f"the file system of {tmp_path} has no leases")
    ended = subprocess.run([sys.executable, "-c", TRUNCATED_MEANWHILE, str(file)], capture_output=True, text=True)
    assert ended.returncode == 0, (ended.returncode, ended.stderr)


def test_a_bundle_that_is_cut_before_its_engine_is_loaded_is_named(bundle: Path, tmp_path: Path) -> None:
    """Between the check of its digests and the loading of its engine."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))

    def cutting(path: Path, variant: Variant) -> Session:
        for weight in weights(path):
            os.truncate(weight, 100)
        return open_session(path, variant)

    with pytest.raises(BundleError, match="was replaced while it was read"):
        load_engine(copy, session=cutting)


def test_a_worker_is_never_of_another_engine(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    variant = naflex_deploy.load(copy).variant
    session = open_session(copy, variant)
    assert isinstance(session, SideBySide)
    for path in weights(copy):
        os.utime(path, ns=(0, 0))
    assert session.worker() is session


def test_a_bundle_that_is_replaced_over_and_over_loads_as_one_of_them(bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    script = (
        "import sys; from pathlib import Path; from naflex_deploy.core.files import copy_files, new_directory\n"
        "path = Path(sys.argv[1])\n"
        "names = [file.relative_to(path).as_posix() for file in path.rglob('*') if file.is_file()]\n"
        "for _ in range(25):\n"
        "    with new_directory(path, force=True) as partial:\n"
        "        copy_files(path, partial, names)\n"
    )
    loaded = 0
    expected = naflex_deploy.load(bundle).embed(IMAGES[:1])
    with subprocess.Popen([sys.executable, "-c", script, str(copy)]) as process:
        while process.poll() is None:
            np.testing.assert_array_equal(naflex_deploy.load(copy).embed(IMAGES[:1]), expected)
            loaded += 1
    assert (process.returncode, loaded > 0) == (0, True)


def test_an_engine_is_never_of_two_bundles(bundle: Path, tmp_path: Path) -> None:
    """The bundle is exchanged between the check of its digests and the loading of its engine."""
    paths = [Path(shutil.copytree(bundle, tmp_path / name)) for name in ("copy", "other")]
    opened = []

    def exchanging(path: Path, variant: object) -> object:
        opened.append(path)
        if len(opened) == 1:
            paths[0].rename(tmp_path / "old")
            paths[1].rename(paths[0])
        return open_session(path, variant)

    load_engine(paths[0], session=exchanging)
    assert len(opened) == 2, "it was loaded again"
