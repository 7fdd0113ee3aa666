"""`bench` and `plan --tune`: documents, pages, exit codes, refusals."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path

import pytest

from naflex_deploy.bench.compare.statistics import Interval
from naflex_deploy.cli.plan import doubt
from naflex_deploy.core.config import resolve
from tests.cli.conftest import Run
from tests.serving.http.browser import PROGRAM, browser
from tests.serving.support import pixels, png, running
from tests.support.bundles import write_summing_bundle

BRIEF = ("--seconds", "0.2", "--count", "4", "--mix", "thumbnails")


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_summing_bundle(tmp_path_factory.mktemp("sums") / "sums")


@pytest.fixture(scope="module")
def measured(run: Run, sums: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    page = tmp_path_factory.mktemp("page") / "report.html"
    result = run("bench", sums, *BRIEF, "--rate", "20", "--rate", "60", "--slo", "500", "-o", page, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), page


def test_the_document_has_every_figure(measured: tuple[dict, Path]) -> None:
    document, _ = measured
    assert (document["schema"], document["command"]) == (1, "bench")
    provenance = document["provenance"]
    assert provenance["executed"]["runtime"].startswith("onnxruntime")
    assert provenance["arguments"]["seed"] == 0
    assert len(provenance["variant"]["sha256"]) == 64
    assert provenance["profile"]["name"] == "test"
    assert document["mix"]["histogram"]["images"] == 4
    assert sum(bin["images"] for bin in document["mix"]["histogram"]["bins"]) == 4
    assert document["single"]["latency"]["count"] >= 4
    assert {one["tokens"] for one in document["single"]["by_image"]} <= set(range(1, 17))
    assert document["offline"]["images_per_second"] > 0
    assert document["offline"]["useful_tokens_per_second"] > document["offline"]["images_per_second"]
    steps = [(step["rate"], step["goal_known"]) for step in document["open_loop"]]
    assert steps == [(20, False), (60, False), (20, True), (60, True)]
    assert all(step["latency"]["p99_ms"] is None for step in document["open_loop"]), "0.2 s are too few samples"
    assert document["slo_ms"] == 500
    assert [entry["budget"] for entry in document["budgets"]] == [16, 64]
    shares = document["accounting"]["shares"]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert shares["pack_tail"] == shares["budget_rounding"] == 0, "ONNX Runtime takes packs as they are"
    assert document["accounting"]["computed_scores"] == document["accounting"]["useful_scores"]
    assert set(document["stages"]["ms_per_image"]) == {"decode", "resize", "pack", "run"}
    assert document["peak_memory_bytes"] > 1e7
    assert document["comparisons"] == []


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_the_page_opens_offline_and_draws_every_figure(measured: tuple[dict, Path]) -> None:
    document, path = measured
    with browser() as page:
        page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        page.call("Page.navigate", url=path.as_uri())
        page.wait("document.readyState === 'complete' && document.querySelectorAll('svg').length > 0")
        sections = page.evaluate("[...document.querySelectorAll('section')].map(section => section.id)")
        assert sections == ["summary", "mix", "single", "offline", "load", "budgets", "tokens", "stages", "memory"]
        points = page.evaluate(
            "[...document.querySelectorAll('#load circle[data-series=p50]')].map(p => [+p.dataset.x, +p.dataset.y])"
        )
        drawn = [step for step in document["open_loop"] if step["latency"]["p50_ms"] and not step["goal_known"]]
        assert points == [[step["rate"], step["latency"]["p50_ms"]["estimate"]] for step in drawn]
        tiles = page.evaluate("[...document.querySelectorAll('#summary dd')].map(one => one.textContent)")
        assert len(tiles) == 5
        assert tiles[4].startswith("met up to" if document["summary"]["goal"]["met"] else "not met")
        counts = page.evaluate("[...document.querySelectorAll('#single path')].map(one => +one.dataset.count)")
        assert counts == [len(document["single"]["latency"]["distribution_ms"])]
        offered = page.evaluate(
            "[...document.querySelectorAll('#load path')].map(p => [p.dataset.series, +p.dataset.count])"
        )
        plain = [step for step in document["open_loop"] if not step["goal_known"]]
        counted = [(f"{step['rate']:g}/s offered", len(step["latency"]["distribution_ms"])) for step in plain]
        assert list(map(tuple, offered)) == [one for one in counted if one[1]]
        bars = page.evaluate(
            "[...document.querySelectorAll('#tokens rect')].map(b => [b.dataset.name, +b.dataset.value,"
            " b.getBoundingClientRect().width])"
        )
        shares = document["accounting"]["shares"]
        assert [(name, value) for name, value, _ in bars] == [
            (name.replace("_", " "), pytest.approx(100 * share)) for name, share in shares.items()
        ]
        widest = max(width for *_, width in bars)
        for _, value, width in bars:
            assert width / widest == pytest.approx(value / max(b[1] for b in bars), abs=0.01)
        assert "sums" in page.evaluate("document.title + document.getElementById('title').textContent")
        sent = [e["params"]["request"]["url"] for e in page.events if e.get("method") == "Network.requestWillBeSent"]
        assert all(url.startswith(("file:", "data:", "about:")) for url in sent)
        assert not [e for e in page.events if e.get("method") == "Runtime.exceptionThrown"]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1")
        page.call("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
        scrolled = "[...document.querySelectorAll('section')].filter(s => s.scrollWidth > s.clientWidth).map(s => s.id)"
        assert page.evaluate(scrolled) == []


def test_figures_are_written_as_csv(measured: tuple[dict, Path]) -> None:
    document, path = measured
    with path.with_suffix(".csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = {(row["section"], row["item"], row["figure"]): row for row in rows}
    assert len(found) >= 60
    assert float(found["offline", "", "images_per_second"]["value"]) == document["offline"]["images_per_second"]
    step = document["open_loop"][2]
    assert float(found["open loop", "20.0/s, goal known", "within_goal"]["value"]) == step["within_goal"]
    median = document["single"]["latency"]["p50_ms"]
    row = found["single", "", "p50_ms"]
    assert [float(row[name]) for name in ("value", "low", "high")] == [median[n] for n in ("estimate", "low", "high")]


def test_an_earlier_run_stands_beside_this_one(
    run: Run, sums: Path, measured: tuple[dict, Path], tmp_path: Path
) -> None:
    document, page = measured
    printed, output = tmp_path / "earlier.json", tmp_path / "both.html"
    printed.write_text(json.dumps(document))
    call = ("bench", sums, "--seconds", "0.1", "--count", "2", "--mode", "single", "-o", output)
    result = run(*call, "--beside", page, "--beside", printed)
    assert result.exit_code == 0, result.output
    first, second = json.loads(output.read_text().split('id="data">')[1].split("</script>")[0])["beside"]
    assert first == second
    assert first["summary"] == document["summary"]
    assert "wrote" in result.stderr
    assert "both.csv exists already" in run(*(*call[:-1], tmp_path / "both.htm")).stderr
    (tmp_path / "other.json").write_text("[]")
    for path, message in ((tmp_path / "other.json", "found no 'bundle'"), (tmp_path / "none", "cannot read the run")):
        refused = run(*call, "--force", "--beside", path)
        assert (refused.exit_code, message in refused.stderr) == (2, True)


def test_the_table_says_where_it_was_executed(run: Run, sums: Path) -> None:
    result = run("bench", sums, *BRIEF, "--mode", "single")
    assert result.exit_code == 0, result.output
    assert "executed on" in result.stdout
    assert "one image after another" in result.stdout
    assert "open loop" not in result.stdout
    assert "█" in result.stdout


def test_a_bundle_against_itself_and_the_gate(run: Run, sums: Path) -> None:
    result = run("bench", sums, sums, *BRIEF, "--fail-below", "0.01", "--json")
    assert result.exit_code == 0, result.output
    (comparison,) = json.loads(result.stdout)["comparisons"]
    assert comparison["least_cosine"] == pytest.approx(1, abs=1e-6)
    assert [ratio["workload"] for ratio in comparison["ratios"]] == ["one image after another", "all images together"]
    assert json.loads(result.stdout)["single"] is None
    result = run("bench", sums, sums, *BRIEF, "--fail-below", "100", "--json")
    assert result.exit_code == 5
    assert "expected at least 100 times as fast" in result.stderr
    assert json.loads(result.stdout)["comparisons"]


def test_ablations_and_baselines(run: Run, sums: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run("bench", sums, *BRIEF, "--baseline", "one-at-a-time", "--ablate", "-o", page, "--json")
    assert result.exit_code == 0, result.output
    names = [(one["first"], one["second"]) for one in json.loads(result.stdout)["comparisons"]]
    assert names == [("packed", "one-at-a-time"), ("shrink-only", "fill"), ("2 budgets", "one budget")]
    assert "one-at-a-time" in page.read_text()


def test_a_server_is_measured(run: Run, sums: Path) -> None:
    with running(names=("sums",)) as server:
        result = run("bench", sums, *BRIEF, "--url", server.url, "--rate", "50", "--json")
        alone = run("bench", sums, *BRIEF, "--url", server.url, "--mode", "single", "--model", "sums", "--json")
        other = run("bench", sums, *BRIEF, "--url", server.url, "--mode", "single", "--model", "sum", "--json")
    assert (other.exit_code, "did you mean 'sums'?" in other.stderr) == (2, True)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["server"]["model"] == "sums"
    assert document["open_loop"][0]["errors"] == 0
    assert document["single"]["latency"]["count"] > 0
    assert document["stages"] is None
    assert alone.exit_code == 0, alone.output
    document = json.loads(alone.stdout)
    assert document["single"]["latency"]["count"] > 0
    assert (document["offline"], document["open_loop"]) == (None, [])


def test_damaged_images_are_left_out_and_said(run: Run, sums: Path, tmp_path: Path) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(png(pixels(seed)))
    (tmp_path / "3.png").write_bytes(png(pixels(3))[:60])
    result = run("bench", sums, "--seconds", "0.2", "--mode", "single", "--sizes", tmp_path, "--json")
    assert result.exit_code == 6
    document = json.loads(result.stdout)
    assert document["mix"]["histogram"]["images"] == 3
    assert [entry["image"] for entry in document["rejected"]] == [str(tmp_path / "3.png")]
    assert f"error: {tmp_path / '3.png'}: " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--mix", "photos", "--sizes", "x.csv"), "--mix and --sizes cannot be used together"),
        (("SUMS", "--baseline", "padded"), "a second bundle and --baseline cannot be used together"),
        (("--url", "http://127.0.0.1:1", "--ablate"), "--url and a comparison cannot be used together"),
        (("--fail-below", "1"), "--fail-below has nothing to compare with"),
        (("--mix", "photo"), "did you mean 'photos'"),
        (("--sizes", "none.csv"), "cannot read none.csv"),
        (("--url", "nowhere", "--mode", "single"), "expected the URL of a server"),
        (("--url", "http://me:secret@127.0.0.1:1", "--mode", "single"), "one with a user's name or password"),
        (("--variant", "tensorrt"), "has no variant 'tensorrt'"),
        (("--api-keys", "none.txt"), "cannot read none.txt"),
        (("--baseline", "padded", "--fail-below", "nan"), "'nan' is not a finite number"),
        (("--rate", "inf"), "'inf' is not a finite number"),
        (("--seconds", "0"), "0.0 is not in the range x>0"),
        (("-o", "EXISTING"), "exists already"),
        (("-o", "figures.csv"), "its figures go to a .csv file beside it"),
        (("--beside", "run.json"), "--beside is shown in a report"),
    ],
)
def test_refusals(run: Run, sums: Path, arguments: tuple[str, ...], message: str) -> None:
    paths = {"SUMS": sums, "EXISTING": sums / "manifest.json"}
    result = run("bench", sums, *(paths.get(argument, argument) for argument in arguments))
    assert result.exit_code in (2, 4)
    assert message in result.stderr
    assert result.stdout == ""


def test_tuning_writes_a_profile_that_the_tool_takes(run: Run, sums: Path, tmp_path: Path) -> None:
    sizes, output = tmp_path / "sizes.csv", tmp_path / "tuned.toml"
    sizes.write_text("w,h\n" + "".join(f"{8 + 4 * (n % 7)},{8 + 4 * (n % 5)}\n" for n in range(60)) + "9999,9999\n")
    profile = ("--profile", "edge", "--set", "image.tokens=16", "--set", "engine.onnxruntime.budgets=[16]")
    arguments = (*profile, "--tune", "--sizes", sizes, "--bundle", sums, "--seconds", "2", "-o", output)
    result = run("plan", *arguments, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["command"] == "plan"
    assert document["before"]["budgets"] == [16]
    assert set(document["cost_model"]) == {"call", "image", "token", "score"}
    assert document["rejected_sizes"] == 1
    assert document["histogram"]["images"] == 60
    tuned = resolve(output).profile
    assert tuned.name == "edge-tuned"
    assert tuned.budgets("onnxruntime") == tuple(document["after"]["budgets"])
    assert tomllib.loads(output.read_text())["image"]["tokens"] == 16
    if document["after"] != document["before"]:
        assert document["predicted_times_as_fast"]["all images together"] >= 1
        assert document["measured"] is None or document["measured"]["ratios"][-1]["workload"] == "all images together"
    assert "exists already" in run("plan", *arguments).stderr
    printed = run("plan", *arguments, "--force")
    assert printed.exit_code == 0, printed.output
    assert "a pack costs" in printed.stdout
    assert ("ended after" in printed.stdout) != ("no time to measure" in printed.stderr)
    badly = float(printed.stdout.split("the predictions are off by up to ")[1].split("%")[0]) > 10
    assert ("the predictions are unreliable" in printed.stderr) == badly
    assert run("plan", "--profile", output, "--backend", "onnxruntime").exit_code == 0


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(1.1, 1.3, ""), (0.9, 1.2, "shows no gain"), (1.0, 1.2, "shows no gain"), (0.7, 0.9, "is slower")],
)
def test_a_gain_that_is_not_certain_is_said(low: float, high: float, said: str) -> None:
    found = doubt(Interval((low + high) / 2, low, high))
    assert (said in found, bool(found)) == (True, bool(said))


def test_tuning_refuses_a_directory_of_damaged_images(run: Run, sums: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    output = tmp_path / "tuned.toml"
    result = run("plan", "--profile", "edge", "--tune", "--sizes", tmp_path, "--bundle", sums, "-o", output)
    assert result.exit_code == 2
    assert "none of 1 images can be read" in result.stderr
    assert not output.exists()


def test_tuning_needs_sizes(run: Run) -> None:
    for arguments in (("--tune",), ("--sizes", "x.csv")):
        result = run("plan", "--profile", "photo", *arguments)
        assert result.exit_code == 2
        assert "--tune and --sizes go together" in result.stderr
