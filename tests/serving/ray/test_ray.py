"""Ray: rows, shards, resuming, a worker that is killed, and a deployment that uses the packer."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import threading
import time

import httpx
import numpy as np
import pytest

from naflex_deploy.core.errors import OutputError
from tests.serving.support import pixels, png, vector
from tests.support.bundles import write_summing_bundle

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'naflex-deploy[ray]'")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow comes with ray[data]")

from naflex_deploy.serving.ray.data import EmbedImages, embed_to_parquet  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

IMAGES = [pixels(seed, 4 * (1 + seed % 3), 4 * (1 + seed % 4)) for seed in range(20)]
BAD = {3, 11}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_summing_bundle(tmp_path_factory.mktemp("ray") / "sums")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for index, image in enumerate(IMAGES):
        (folder / f"{index:02}.png").write_bytes(b"no image" if index in BAD else png(image))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    # Ray kills a proxy that takes longer to start, as it may on a busy machine.
    os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"
    os.environ["RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S"] = "60"
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


def table(output, kind):
    files = sorted(output.glob(f"{kind}-*.parquet"))
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def assert_complete(output, paths):
    rows = table(output, "part")
    assert [row["path"] for row in rows] == [str(path) for i, path in enumerate(paths) if i not in BAD]
    expected = [vector(image) for i, image in enumerate(IMAGES) if i not in BAD]
    np.testing.assert_allclose([row["embedding"] for row in rows], expected, rtol=1e-4, atol=1e-5)
    rejected = table(output, "rejected")
    assert [row["path"] for row in rejected] == [str(paths[i]) for i in sorted(BAD)]
    assert all("expected JPEG" in row["error"] for row in rejected)


def test_a_batch_has_a_row_for_every_input(bundle, paths):
    embed = EmbedImages(str(bundle), column="image")
    found = embed({"image": np.array([path.read_bytes() for path in paths], object), "id": np.arange(20)})
    assert found["id"].tolist() == list(range(20))
    assert {i for i, error in enumerate(found["error"]) if error} == BAD
    for i, image in enumerate(IMAGES):
        expected = np.zeros(8) if i in BAD else vector(image)
        np.testing.assert_allclose(found["embedding"][i], expected, rtol=1e-4, atol=1e-5)


def test_files_become_parquet_and_a_run_goes_on(cluster, bundle, paths, tmp_path):
    output = tmp_path / "vectors"
    totals = embed_to_parquet(paths, bundle, output, shard=6, workers=2)
    assert (totals.embedded, totals.rejected, totals.shards) == (18, 2, 4)
    assert_complete(output, paths)
    kept = (output / "part-000000.parquet").stat().st_mtime_ns
    (output / "part-000002.parquet").unlink()
    again = embed_to_parquet(paths, bundle, output, shard=6, workers=2)
    assert (again.embedded, again.shards, again.shards_before) == (6, 1, 3)
    assert (output / "part-000000.parquet").stat().st_mtime_ns == kept
    assert_complete(output, paths)
    with pytest.raises(OutputError, match="inputs, count differ"):
        embed_to_parquet(paths[1:], bundle, output, shard=6)
    with pytest.raises(OutputError, match="shard differ"):
        embed_to_parquet(paths, bundle, output, shard=7)


def changed(bundle, folder, change):
    """A copy of a bundle whose manifest says something else; its weights, and thus its model, are the same."""
    shutil.copytree(bundle, folder)
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content | {"digest": ""}))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda manifest: manifest["variants"][0].update(precision="fp16"), 'variant.precision was "fp32", is "fp16"'),
        (lambda manifest: manifest["config"]["image"].update(dpi=77), "image.dpi was"),
    ],
    ids=["precision", "image"],
)
def test_a_run_does_not_go_on_with_an_engine_of_other_vectors(cluster, bundle, paths, tmp_path, change, said):
    output = tmp_path / "vectors"
    embed_to_parquet(paths[:4], bundle, output, shard=2, workers=1)
    lost = output / "part-000001.parquet"
    lost.unlink()
    with pytest.raises(OutputError, match=re.escape(said)):
        embed_to_parquet(paths[:4], changed(bundle, tmp_path / "changed", change), output, shard=2, workers=1)
    assert not lost.exists()
    assert embed_to_parquet(paths[:4], bundle, output, shard=2, workers=1).shards == 1


@pytest.mark.parametrize("name", ["plan.json", "key.json"])
def test_a_damaged_or_lost_record_is_named(cluster, bundle, paths, tmp_path, name):
    output = tmp_path / "vectors"
    embed_to_parquet(paths[:2], bundle, output, shard=1, workers=1)
    content = (output / name).read_bytes()
    for damaged in (content[:9], b"[]", b"\xff"):
        (output / name).write_bytes(damaged)
        with pytest.raises(OutputError, match=re.escape(f"{output / name} is damaged")):
            embed_to_parquet(paths[:2], bundle, output, shard=1, workers=1)
    (output / name).unlink()
    with pytest.raises(OutputError, match="does not say what its vectors were made with"):
        embed_to_parquet(paths[:2], bundle, output, shard=1, workers=1)


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
