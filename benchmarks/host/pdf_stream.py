"""Streams a long PDF through ``embed``, kills it and resumes: reports peak memory, lost or doubled pages, and seconds.

    python -m benchmarks.host.pdf_stream [--pages 1000] [--model demo] [--profile doc-ocr]

The exit code is 5 if memory exceeds 500 MB, or if a page is lost or doubled.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from naflex_deploy import build
from naflex_deploy.core.errors import BenchmarkError
from tests.support.pdfs import pdf, text

LIMIT_MB = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--profile", default="doc-ocr")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="A.B=VALUE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        build(options.profile, options.model, folder / "bundle", settings=options.settings)
        (folder / "long.pdf").write_bytes(pdf([_page(number) for number in range(options.pages)]))
        report = measure(folder, options.pages)
    print(json.dumps(report, indent=2))
    if report["peak_mb"] > LIMIT_MB or report["lost"] or report["doubled"]:
        sys.exit(BenchmarkError.code)


def measure(folder: Path, pages: int) -> dict[str, float]:
    """Embed ``long.pdf``, killed after a third of its pages and then resumed."""
    output = folder / "out.npz"
    rows = folder / ".out.npz.journal" / "rows.jsonl"
    command = [sys.executable, "-m", "naflex_deploy", "embed", str(folder / "bundle"), str(folder / "long.pdf")]
    start = time.perf_counter()
    first, killed = _run([*command, "-o", str(output)], rows, pages // 3)
    second, _ = _run([*command, "-o", str(output), "--resume"])
    with np.load(output) as arrays:
        frames = arrays["frame"][arrays["tile"] == 0].tolist()
        images = len(arrays["frame"])
        tokens = int((arrays["grid_rows"] * arrays["grid_columns"]).sum())
    return {
        "pages": pages,
        "images": images,
        "tokens": tokens,
        "killed_after_pages": killed,
        "lost": len(set(range(pages)) - set(frames)),
        "doubled": len(frames) - len(set(frames)),
        "peak_mb": round(max(first, second), 1),
        "seconds": round(time.perf_counter() - start, 1),
    }


def _run(command: Sequence[str], rows: Path | None = None, stop: int = 0) -> tuple[float, int]:
    """Peak memory of a command in MB, and the number of pages that it had recorded when it was killed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak, pages = 0.0, 0
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        if rows and rows.exists():
            pages = len({json.loads(line)["frame"] for line in rows.read_text().splitlines()[:-1]})
            if pages >= stop:
                os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.2)
    if not rows and process.returncode:
        raise BenchmarkError(f"embed ended with {process.returncode}")
    return peak, pages


def _peak(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), default=0.0)


def _page(number: int) -> str:
    lines = [text(f"Page {number}, line {line} of a page of text", 10, (60, 780 - 14 * line)) for line in range(50)]
    return " ".join(lines)


if __name__ == "__main__":
    main()
