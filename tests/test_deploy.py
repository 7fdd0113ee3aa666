"""What `deploy/` holds fits the server: names of metrics, files, and what each tool says of its own files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from naflex_deploy.serving.http.metrics import Metrics

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "naflex-deploy.json"
QUEUES = {"naflex_admitted_tokens", "naflex_queue_tokens", "naflex_queue_capacity_tokens"}
"""Gauges that are there once a model is."""


def samples() -> set[str]:
    """Every name that a query may ask for."""
    metrics = Metrics()
    metrics.requests.labels("route", "200").inc()
    metrics.rejections.labels("reason").inc()
    metrics.request_seconds.labels("route").observe(1)
    metrics.stage.labels("model", "run").observe(1)
    for counter in (metrics.images, metrics.tokens, metrics.packs):
        counter.labels("model").inc()
    for histogram in (metrics.fill, metrics.wait):
        histogram.labels("model").observe(1)
    families = text_string_to_metric_families(metrics.text().decode())
    return QUEUES | {sample.name for family in families for sample in family.samples}


@pytest.mark.parametrize(
    "path", [DASHBOARD, DEPLOY / "prometheus" / "alerts.yml", DEPLOY / "kubernetes" / "prometheus-adapter.yaml"]
)
def test_every_metric_that_is_asked_for_is_one_of_the_server(path: Path) -> None:
    asked = set(re.findall(r"naflex_[a-z_]+", path.read_text())) - {"naflex_queue_share"}
    assert asked
    assert asked <= samples()


def test_every_panel_of_the_dashboard_asks_prometheus_and_has_its_place() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["targets"]
        assert all("[$__rate_interval]" in t["expr"] or "rate" not in t["expr"] for t in panel["targets"])


def test_the_image_gets_everything_that_the_wheel_is_made_of() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (?!--)(.*) \S+$", text, re.M) for name in line.split()}
    ignored = (DEPLOY / "Containerfile.dockerignore").read_text()
    folders = re.findall(r'^(\w+) = "naflex_deploy/\w+"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert {"naflex_deploy", "pyproject.toml", *folders} <= copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f"!{name}\n" in ignored


def run(*command: str | Path, **options: object) -> str:
    tool = shutil.which(command[0]) or shutil.which(Path(sys.executable).with_name(str(command[0])))
    if tool is None:
        pytest.skip(f"{command[0]} is not installed")
    found = subprocess.run([tool, *command[1:]], capture_output=True, text=True, check=False, **options)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


@pytest.mark.integrations
def test_hadolint_finds_nothing_in_the_containerfile() -> None:
    assert run("hadolint", DEPLOY / "Containerfile") == ""


@pytest.mark.integrations
def test_prometheus_takes_its_files() -> None:
    run("promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml")


@pytest.mark.integrations
def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"].replace("$__rate_interval", "1m") for panel in panels for target in panel["targets"]]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    # JSON is YAML.
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(queries)} rules found" in run("promtool", "check", "rules", tmp_path / "rules.yml")


@pytest.mark.integrations
def test_kubernetes_takes_what_kustomize_makes(tmp_path: Path) -> None:
    made = run("kubectl", "kustomize", DEPLOY / "kubernetes")
    assert made.count("\nkind: ") == 4
    (tmp_path / "all.yaml").write_text(made)
    run("kubernetes-validate", "--strict", tmp_path / "all.yaml")


@pytest.mark.integrations
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "naflex-deploy.service").read_text()
    (tmp_path / "naflex-deploy.service").write_text(unit.replace("/opt/naflex/bin/naflex-deploy", "/bin/true"))
    run("systemd-analyze", "verify", tmp_path / "naflex-deploy.service")
