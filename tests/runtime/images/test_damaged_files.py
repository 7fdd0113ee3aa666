"""Damage to tiny files of every kind: each is an ImageError of its file, within bounds of time and memory."""

from __future__ import annotations

from tests.support.fuzzing.worker import fuzz

COUNT = 2000


def test_damaged_files_of_every_kind_are_errors_of_their_own() -> None:
    report = fuzz(COUNT)
    assert report.failures == []
    assert sum(report.outcomes.values()) == COUNT
    assert report.outcomes["read"] > COUNT / 20, "some damage does not matter"
    assert report.outcomes["refused"] > COUNT / 4
