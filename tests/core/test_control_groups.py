"""How many cores a container's limit leaves. The files are those that Docker and Kubernetes make."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from naflex_deploy.core import machine
from naflex_deploy.core.control_groups import cpu_limit, read

V1 = "12:memory:/docker/a\n5:cpu,cpuacct:/docker/a\n1:name=systemd:/docker/a\n"


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("cpu_", "cpu.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu_max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu_max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu_max": "max 100000\n"}, math.inf),
        ("0::/pod/c\n", {"pod__cpu_max": "50000 100000", "pod__c__cpu_max": "max 100000"}, 0.5),
        ("0::/pod/c\n", {"pod__cpu_max": "300000 100000", "pod__c__cpu_max": "200000 100000"}, 2),
        ("0::/\n", {}, math.inf),
        (V1, {"cpu__cpu_cfs_quota_us": "400000\n", "cpu__cpu_cfs_period_us": "100000\n"}, 4),
        (V1, {"cpu__docker__a__cpu_cfs_quota_us": "100000", "cpu__docker__a__cpu_cfs_period_us": "50000"}, 2),
        (V1, {"cpu__cpu_cfs_quota_us": "-1\n", "cpu__cpu_cfs_period_us": "100000\n"}, math.inf),
        ("", {}, math.inf),
        ("0::/\n", {"cpu_max": "0 0"}, math.inf),
    ],
)
def test_the_lowest_limit_of_all_groups_counts(
    tmp_path: Path, groups: str, files: dict[str, str], expected: float
) -> None:
    write(tmp_path, **files)
    assert cpu_limit(groups, tmp_path) == expected


@pytest.mark.parametrize(("limit", "expected"), [(math.inf, 8), (16.0, 8), (3.0, 3), (1.5, 2), (0.25, 1)])
def test_cores_follow_the_limit(monkeypatch: pytest.MonkeyPatch, limit: float, expected: int) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(machine, "_limit", lambda: limit)
    assert machine.cores() == expected


def test_what_is_no_text_is_no_limit(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_bytes(b"\xff")
    assert read(tmp_path / "cpu.max") == read(tmp_path / "none") == ""
