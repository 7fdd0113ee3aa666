"""Bundles with a real engine: several names, replacement while requests run, and the command from start to end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from naflex_deploy.cli import main
from naflex_deploy.core.errors import BundleError
from naflex_deploy.serving.client import Client
from naflex_deploy.serving.http.models import Models, open_model
from tests.serving.support import pixels, png, running, summing_model, vector, wait_until
from tests.support.bundles import write_summing_bundle


def test_a_reload_swaps_at_once_and_loses_no_request(tmp_path):
    bundle = write_summing_bundle(tmp_path / "sums")
    image = pixels(0)
    old, new = vector(image), vector(image, 2.0)
    with running(load=lambda name, path: open_model(name, bundle), keys=("key",)) as server:
        answers: list[np.ndarray] = []
        stop = threading.Event()

        failures: list[Exception] = []

        def send() -> None:
            with Client(server.url, model="sums", api_key="key", retries=0) as client:
                while not stop.is_set():
                    try:
                        answers.append(client.embed([png(image)])[0])
                    except Exception as error:
                        failures.append(error)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) > 8)
        write_summing_bundle(tmp_path / "next", scale=2.0)
        shutil.rmtree(bundle)
        (tmp_path / "next").rename(bundle)
        headers = {"authorization": "Bearer key"}
        assert httpx.post(f"{server.url}/v2/repository/models/sums/load", headers=headers).status_code == 200
        count = len(answers)
        wait_until(lambda: len(answers) > count + 16)
        stop.set()
        for thread in threads:
            thread.join(20)
        assert not failures
        kinds = [bool(np.allclose(a, new, rtol=1e-4)) for a in answers]
        assert all(kind or np.allclose(a, old, rtol=1e-4) for kind, a in zip(kinds, answers, strict=True))
        assert not kinds[0]
        assert all(kinds[count + 4 :])


def test_a_bundle_that_cannot_be_loaded_leaves_the_old_one(tmp_path):
    bundle = write_summing_bundle(tmp_path / "sums")
    models = Models({"sums": bundle}, lambda name, path: open_model(name, path))
    before = models.get()
    engine = bundle / before.variant.model
    engine.write_bytes(engine.read_bytes()[:-1])
    with pytest.raises(BundleError, match="bytes, found"):
        models.reload("sums")
    assert models.get() is before
    assert models.close(5)


def test_reloading_over_http_needs_keys():
    with running() as server:
        assert httpx.post(f"{server.url}/v2/repository/models/sums/load").status_code == 403


def test_the_command_serves_reloads_and_drains(tmp_path):
    first, second = write_summing_bundle(tmp_path / "first"), write_summing_bundle(tmp_path / "second", scale=3.0)
    command = [
        sys.executable,
        "-m",
        "naflex_deploy",
        "serve",
        str(first),
        f"tripled={second}",
        "--port",
        "0",
        "--notice",
        "0.2",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert process.stderr is not None
    events: list[dict] = []
    try:
        read_until(process.stderr, events, "ready")
        url = events[-1]["url"]
        assert events[-1]["models"] == ["first", "tripled"]
        image = pixels(5)
        for model, scale in (("first", 1.0), ("tripled", 3.0)):
            with Client(url, model=model) as client:
                np.testing.assert_allclose(client.embed([png(image)])[0], vector(image, scale), rtol=1e-4, atol=1e-5)
        write_summing_bundle(first, scale=5.0)
        process.send_signal(signal.SIGHUP)
        read_until(process.stderr, events, "reloaded")
        with Client(url, model="first") as client:
            np.testing.assert_allclose(client.embed([png(image)])[0], vector(image, 5.0), rtol=1e-4, atol=1e-5)
            process.send_signal(signal.SIGTERM)
            read_until(process.stderr, events, "draining")
            assert not client.ready()
        read_until(process.stderr, events, "stopped")
        assert events[-1]["all_answered"] is True
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "99999 is not in the range 0<=x<=65535"),
        (["--queue-tokens", "-5"], "-5 is not in the range x>=0"),
        (["--max-items", "0"], "0 is not in the range x>=1"),
        (["--api-keys", "missing.txt"], "cannot read missing.txt"),
        (["--host", "nowhere.invalid"], "cannot listen on nowhere.invalid"),
        (["--port", "TAKEN"], "Address already in use"),
    ],
)
def test_wrong_options_are_usage_errors(tmp_path, arguments, message):
    bundle = write_summing_bundle(tmp_path / "sums")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        found = CliRunner().invoke(main, ["serve", str(bundle), *(port if a == "TAKEN" else a for a in arguments)])
    assert (found.exit_code, "Traceback" in found.output) == (2, False), found.output
    assert message in found.output.replace("\n", " ")


def read_until(stream, events: list[dict], event: str) -> None:
    for line in stream:
        if line.startswith("{"):
            events.append(json.loads(line))
            if events[-1]["event"] == event:
                return
    raise AssertionError(f"the server ended before '{event}': {events}")


def test_reloads_that_are_asked_for_while_one_runs_are_one_more():
    loads, asked, go = [], [], threading.Event()

    def load(name, path):
        loads.append(name)
        if len(loads) > 1:
            assert go.wait(60)
        return summing_model(name)

    with running(load=load, keys=("key",)) as server, ThreadPoolExecutor(8) as pool:
        url = f"{server.url}/v2/repository/models/sums/load"
        post = partial(httpx.post, url, headers={"x-api-key": "key"}, timeout=60)
        reload = server.service.reload

        async def counted(name):
            asked.append(name)
            await reload(name)

        server.service.reload = counted
        first = pool.submit(post)
        wait_until(lambda: len(loads) == 2)
        others = [pool.submit(post) for _ in range(5)]
        wait_until(lambda: len(asked) == 6)
        go.set()
        assert [answer.result().status_code for answer in (first, *others)] == [200] * 6
        assert len(loads) == 3
