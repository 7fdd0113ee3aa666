"""A calibration goes on to the same bytes after a kill, and a complete file is one of the same inputs and settings."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from naflex_deploy.compiler.quantize import request
from naflex_deploy.compiler.quantize.images import shuffled
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.config import Config
from naflex_deploy.core.errors import CalibrationError, UsageError
from naflex_deploy.core.progress import Counts
from naflex_deploy.runtime.images import versions
from tests.compiler.quantize.calibrating import config, drawn, images, names, run, small_rounds

__all__ = ["drawn", "images", "small_rounds"]


RUN = """
import os, signal, sys
from pathlib import Path
from naflex_deploy.compiler.quantize import calibration, observing
from tests.compiler.quantize.calibrating import run
from tests.support.tiny import copied
observing.ROUND, observing.KEEP_SECONDS = 5, 0.0
def count(counts):
    if counts.done >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
calibration.export = copied(Path(sys.argv[3]))
run(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=count)
"""
"""A calibration in a process of its own, killed when so many images were observed."""


def test_a_killed_run_goes_on_to_the_same_bytes(drawn: Path, bundle: Path, tmp_path: Path) -> None:
    output, after = tmp_path / "out.json", 15
    killed = subprocess.run([sys.executable, "-c", RUN, str(drawn), str(output), str(bundle), str(after)])
    assert killed.returncode == -signal.SIGKILL
    assert names(tmp_path) == [".out.json.journal", ".out.json.lock"]
    with pytest.raises(UsageError, match=r"was begun with something else: seed was 0, is 9"):
        run(drawn, output, seed=9, resume=True)
    order = tmp_path / ".out.json.journal" / "order.json"
    begun = order.read_bytes()
    for content in (b"", begun[:99], json.dumps({"key": ["an", "earlier", "version"], "order": []}).encode()):
        order.write_bytes(content)
        with pytest.raises(UsageError, match=r"order.json is damaged or of another version"):
            run(drawn, output, resume=True)
    order.write_bytes(begun)
    counts: list[Counts] = []
    found = run(drawn, output, resume=True, on_progress=counts.append)
    assert found.resumed == after - 5  # The last round was observed, but not saved.
    assert [one.done for one in counts] == [*range(after - 5, 24, 5), 24]
    assert {(one.total, one.before) for one in counts} == {(24, after - 5)}
    assert (counts[0].images, counts[-1].images) == (0, 24 - (after - 5)), "each is of one tile"
    assert 0 < counts[1].tokens < counts[-1].tokens
    assert names(tmp_path) == ["out.json"]
    run(drawn, tmp_path / "at once.json")
    assert output.read_bytes() == (tmp_path / "at once.json").read_bytes()


def test_a_file_is_complete_where_it_was_made_of_the_same_alone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.json"
    (images / "text.png").write_text("no image")
    asked = config(20, "image.dpi=72")
    run(images, output, asked)
    before = output.read_bytes()
    again = run(images, output, asked, resume=True)
    assert (again.complete, again.spec.key) == (True, QuantSpec.read(output).key)

    def refused(named: str, settings: Config = asked, **options: object) -> None:
        with pytest.raises(UsageError, match=rf"is complete, but was made with something else: {named} \(pass"):
            run(images, output, settings, resume=True, **options)
        assert output.read_bytes() == before

    labels = tmp_path / "labels.csv"
    labels.write_text("01.png,letter\n")
    refused("seed", seed=1)
    refused("labels", labels=labels)
    refused("sensitivity", sensitivity=lambda *arguments: None)
    refused("samples", config(21, "image.dpi=72"))
    refused("settings", config(20, "video.rate=3", "image.dpi=72"))
    refused("image, settings", config(20))
    refused("method", config(20, "image.dpi=72", "calibration.method=mse"))
    with monkeypatch.context() as patched:
        patched.setattr(request, "__version__", "9.9")
        refused("naflex-deploy")
    with monkeypatch.context() as patched:
        patched.setattr(versions, "version", lambda package: "9.9")
        refused("readers")
    tried = shuffled(sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png")), 0)
    shutil.copy(images / tried[-1], images / tried[0])
    refused("inputs")
    (images / tried[-1]).unlink()
    refused("inputs")
    assert run(images, output, asked, resume=True, force=True).spec.samples != again.spec.samples
    QuantSpec.read(output)
    output.write_text(output.read_text()[:-99])
    with pytest.raises(CalibrationError):
        run(images, output, asked, resume=True)
    dataclasses.replace(again.spec, origin={}).write(output)
    with pytest.raises(UsageError, match="does not say what it was made with"):
        run(images, output, asked, resume=True)
