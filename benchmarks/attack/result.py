"""What attacks have found, kept as lines of JSON, so that the tables can be of several runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Result:
    """Of one attack with one seed.

    Attributes:
        part: Name of the attack.
        seed: What was drawn for it.
        counts: What became of what was tried, for each kind of thing.
        failures: What must not happen.
        health, good: Milliseconds of answers that a server gave meanwhile, about its health and to good requests.
        unanswered: Good requests without an answer in time.
        peak: Largest memory of the server or of the process that reads, in MB.
    """

    part: str
    seed: int
    counts: dict[str, dict[str, int]]
    failures: list[str]
    health: list[float] = field(default_factory=list)
    good: list[float] = field(default_factory=list)
    unanswered: int = 0
    peak: float = 0.0


def keep(path: Path, result: Result) -> None:
    """Add a result to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def kept(paths: Iterable[Path]) -> list[Result]:
    """The results in files."""
    return [Result(**json.loads(line)) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
