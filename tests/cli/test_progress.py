"""Progress of long commands, on a clock that the test moves."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from naflex_deploy import load
from naflex_deploy.cli.progress import Progress, describe
from naflex_deploy.core.progress import Counts
from naflex_deploy.runtime.embedding.run import embed_files
from naflex_deploy.runtime.embedding.search import search
from naflex_deploy.runtime.embedding.summary import Places
from naflex_deploy.runtime.images.inputs import number_of_inputs
from tests.bench.support import Clock
from tests.cli.conftest import Run
from tests.support.bundles import write_summing_bundle


@pytest.mark.parametrize(
    ("counts", "seconds", "said"),
    [
        (Counts(0, 40), 0, "0 of 40 files"),
        (Counts(10, 40, images=20, tokens=5120), 10, "10 of 40 files, 2 images/s, 512 tokens/s, 0:30 left"),
        (Counts(10, 40, before=5, images=5), 10, "10 of 40 files, 0.5 images/s, 1:00 left"),
        (Counts(5, 40, before=5), 10, "5 of 40 files"),
        (Counts(40, 40, images=40), 10, "40 of 40 files, 4 images/s"),
        (Counts(1234, images=1234, tokens=12340), 10, "1,234 files, 123 images/s, 1,234 tokens/s"),
        (Counts(1, 3, images=35.25, tokens=9024, seconds=1.0), 1850, "1 of 3 files, 35.2 images/s, 9,024 tokens/s"),
    ],
)
def test_totals_rates_and_the_time_left(counts: Counts, seconds: float, said: str) -> None:
    left = ", 1:01:40 left" if counts.seconds else ""
    assert describe(counts, "files", seconds) == said + left


def shown(*, terminal: bool, quiet: bool = False) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, quiet=quiet, width=100), stream


def test_a_log_has_a_line_every_ten_seconds_and_for_other_work() -> None:
    console, stream = shown(terminal=False)
    clock = Clock()
    with Progress("files", console=console, clock=clock) as progress:
        for second in range(25):
            clock.now = float(second)
            progress.show("embedding [a]", Counts(second, 50, images=second))
        progress.show("drawing", Counts(24, 50))
    assert stream.getvalue().splitlines() == [
        "embedding [a]: 0 of 50 files",
        "embedding [a]: 10 of 50 files, 1 images/s, 0:40 left",
        "embedding [a]: 20 of 50 files, 1 images/s, 0:30 left",
        "drawing: 24 of 50 files, 0:26 left",
    ]


def test_a_terminal_has_a_bar_that_goes_away_and_quiet_has_nothing() -> None:
    console, stream = shown(terminal=True)
    with Progress("files", console=console, clock=Clock()) as progress:
        progress.show("embedding [a]", Counts(3, 4))
    assert "embedding [a]: 3 of 4 files" in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")
    for terminal in (True, False):
        console, stream = shown(terminal=terminal, quiet=True)
        with Progress("files", console=console, clock=Clock()) as progress:
            progress.show("embedding", Counts(3, 4))
        assert stream.getvalue() == ""


def test_embed_counts_files_with_all_their_frames(bundle: Path, images: Path, tmp_path: Path) -> None:
    seen: list[Counts] = []
    (images / "broken.png").write_bytes(b"no image")
    engine, output = load(bundle), tmp_path / "out.npz"
    embed_files(engine, [images], Places(output), on_progress=seen.append)
    assert (seen[0].done, seen[-1].done, {one.total for one in seen}) == (0, 6, {6})
    assert [one.done for one in seen] == sorted(one.done for one in seen)
    assert (seen[-1].images, len(seen)) == (6, 8), "five sound files, of which one has two frames, and a broken one"
    assert seen[-1].tokens > 0


def test_the_number_of_inputs_is_known_without_reading_shards() -> None:
    paths = [Path("a.png"), Path("b.pdf")]
    assert number_of_inputs(paths) == 2
    for several in ("shard.tar", "table.parquet", "table.parquet::column"):
        assert number_of_inputs([*paths, Path(several)]) is None


def test_search_counts_the_rows_it_compared(tmp_path: Path, bundle: Path, images: Path) -> None:
    seen: list[Counts] = []
    engine, output = load(bundle), tmp_path / "out.npz"
    embed_files(engine, [images / "a.png", images / "e.tiff"], Places(output))
    found = search(output, np.ones(32, np.float32), engine.manifest.model.digest, on_progress=seen.append)
    assert seen[-1] == Counts(len(found)) == Counts(3)


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        (("--mode", "single"), ["preparing images", "single stream", "stages", "peak memory"]),
        (("--baseline", "padded"), ["preparing images", "packed against padded"]),
        (
            ("--mode", "open-loop", "--rate", "20", "--slo", "100"),
            ["preparing images", *2 * ["open loop at 20 images/s"], "stages", "peak memory"],
        ),
    ],
)
def test_a_benchmark_knows_the_number_of_its_steps(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], steps: list[str]
) -> None:
    sums = write_summing_bundle(tmp_path / "sums")
    result = run("bench", sums, "--seconds", "0.1", "--count", "2", "--mix", "thumbnails", *arguments)
    assert result.exit_code == 0, result.output
    loading, *lines = [line for line in result.stderr.splitlines() if "sitting" not in line and "warning" not in line]
    assert loading == f"loading {sums}"
    seen = [line.split(",")[0] for line in lines]
    expected = [f"{step}: {done} of {len(steps)} steps" for done, step in enumerate(steps)]
    assert seen == [line for done, line in enumerate(expected) if steps[done] != steps[done - 1]]
