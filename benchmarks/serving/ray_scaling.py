"""Runs a bundle with Ray Data on one worker, on two, and on two of which one is killed, with one thread per engine.

    python -m benchmarks.serving.ray_scaling build/photo

Rates leave out each worker's first shard, which includes its start-up time.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pyarrow.parquet as parquet
import ray
import ray.data

from benchmarks.serving.fake_server import jpeg
from naflex_deploy.core.machine import cpu_name
from naflex_deploy.serving.ray.data import embed_to_parquet

IMAGES, SHARD = 40, 4


def rate(paths: list[Path], bundle: Path, output: Path, workers: int) -> float:
    """Images per second."""
    embed_to_parquet(paths, bundle, output, shard=SHARD, workers=workers)
    ended = sorted(file.stat().st_mtime for file in output.glob("part-*"))
    return SHARD * (len(ended) - workers) / (ended[-1] - ended[workers - 1])


def kill_a_worker(output: Path) -> int:
    """Kill a worker once the first shard is written; returns its process id."""
    while not any(output.glob("part-*")):
        time.sleep(0.01)
    processes = psutil.process_iter(["cmdline"])
    worker = next(found for found in processes if "WriteShards" in " ".join(found.info["cmdline"] or []))
    worker.kill()
    return worker.pid


def rows(output: Path) -> list[str]:
    files = sorted(output.glob("part-*"))
    return [path for file in files for path in parquet.read_table(file)["path"].to_pylist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    bundle = parser.parse_args().bundle
    print(f"{cpu_name()}, load average {os.getloadavg()[0]:.1f}")
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    with TemporaryDirectory() as name, ThreadPoolExecutor(1) as pool:
        folder = Path(name)
        paths = [folder / f"{number:03}.jpg" for number in range(IMAGES)]
        for number, file in enumerate(paths):
            file.write_bytes(jpeg(600, 800, number))
        one, two = (rate(paths, bundle, folder / str(workers), workers) for workers in (1, 2))
        print(f"{one:.2f} images/s on 1 worker, {two:.2f} on 2: {two / one:.2f}x")
        output = folder / "killed"
        killed = pool.submit(kill_a_worker, output)
        totals = embed_to_parquet(paths, bundle, output, shard=SHARD, workers=2)
        complete = rows(output) == [str(path) for path in paths]
        print(f"worker {killed.result()} of 2 killed: every row is there once, in order: {complete}; {totals}")
    ray.shutdown()


if __name__ == "__main__":
    main()
