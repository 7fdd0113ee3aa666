"""On a cluster of Ray: files become Parquet, a worker is killed, and a deployment packs concurrent requests."""

from __future__ import annotations

import base64
import os
import threading
import time

import httpx
import numpy as np
import pytest

from naflex_deploy.serving.ray.data import embed_to_parquet
from tests.serving.ray.support import IMAGES, assert_complete
from tests.serving.support import png, vector

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    import ray

    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    # Ray kills a proxy that takes longer to start, as it may on a busy machine.
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"
    os.environ["RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S"] = "60"
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def test_files_become_parquet_and_a_run_goes_on(cluster, bundle, paths, tmp_path):
    output = tmp_path / "vectors"
    totals = embed_to_parquet(paths, bundle, output, shard=6, workers=2)
    assert (totals.embedded, totals.rejected, totals.shards) == (18, 2, 4)
    assert_complete(output, paths)
    (output / "part-000002.parquet").unlink()
    again = embed_to_parquet(paths, bundle, output, shard=6, workers=2)
    assert (again.embedded, again.shards, again.shards_before) == (6, 1, 3)
    assert_complete(output, paths)


def test_a_killed_worker_loses_no_row(cluster, bundle, paths, tmp_path):
    output = tmp_path / "vectors"
    killed = []

    def kill() -> None:
        import psutil

        while not killed:
            for process in psutil.process_iter(["cmdline"]):
                if "WriteShards" in " ".join(process.info["cmdline"] or []) and any(output.glob("part-*")):
                    killed.append(process.pid)
                    process.kill()
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    embed_to_parquet(paths, bundle, output, shard=1, workers=1)
    killed.append(0)
    thread.join(5)
    assert killed[0], "the worker ended before it was killed"
    assert_complete(output, paths)


def test_a_deployment_packs_concurrent_requests(cluster, bundle):
    from ray import serve

    from naflex_deploy.serving.ray.serve import deployment

    serve.start(http_options={"host": "127.0.0.1", "port": 18765})
    try:
        handle = serve.run(deployment(bundle), name="sums", route_prefix="/embed")
        waiting = [handle.embed.remote([png(image)]) for image in IMAGES]
        for image, answer in zip(IMAGES, waiting, strict=True):
            np.testing.assert_allclose(answer.result(timeout_s=60)[0], vector(image), rtol=1e-4, atol=1e-5)
        url = "http://127.0.0.1:18765/embed"
        sent = [base64.b64encode(png(image)).decode() for image in IMAGES]
        content = httpx.post(url, json={"input": sent, "explain": True}, timeout=60).json()
        assert len({item["packing"]["pack"] for item in content["data"]}) < len(IMAGES)
        answer = httpx.post(url, json={"input": ["%"]}, timeout=60)
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "input[0]")
    finally:
        serve.shutdown()
