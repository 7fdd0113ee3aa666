"""Read many damaged files in a process of its own: ``python -m tests.support.fuzzing.worker FIRST COUNT``.

A crash or a hang of a decoder ends that process, is noted, and another process goes on behind it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.fuzzing.seeds import READERS

if TYPE_CHECKING:
    from naflex_deploy.runtime.packing.prepare import Preparer

LONGEST = 10
"""Seconds of the processor for one file."""

MOST = 1 << 30
"""Bytes of memory, those of Python and its libraries included."""

_ADDRESSES = 6 << 30
"""Bytes of address space, which libraries reserve and do not use."""


_ENVIRONMENT = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OPENBLAS_NUM_THREADS": "1"}

_TOO_LARGE = 3
"""Exit status of a process whose memory cannot be measured any more, as it only grows."""


@dataclass
class Report:
    """What became of the mutants.

    Attributes:
        outcomes: How many there were of each kind.
        readers: The same of each reader.
        peak: Largest memory of a process that read them, in MiB.
        failures: What must not happen, each with the number of its mutant.
        ended: Mutants at which a process of a reader ended, and how.
        unforeseen: Exceptions that no reader names, which the boundary turned into errors of their inputs.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    readers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    peak: int = 0
    failures: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    unforeseen: list[str] = field(default_factory=list)


def fuzz(count: int, first: int = 0) -> Report:
    """Read so many mutants, from a number on."""
    report, number = Report(), first
    while number < first + count:
        command = [sys.executable, "-m", "tests.support.fuzzing.worker", str(number), str(first + count - number)]
        done = subprocess.run(command, capture_output=True, check=False, env=_ENVIRONMENT)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b'{"mutant"')]
        for line in lines:
            report.outcomes[line["outcome"]] += 1
            report.readers[line["reader"]][line["outcome"]] += 1
            report.peak = max(report.peak, line["peak"])
            if line["outcome"] == "failure":
                report.failures.append(f"{line['mutant']}, {line['name']}: {line['what']}")
            elif line["outcome"] == "unforeseen":
                report.unforeseen.append(f"{line['mutant']}, {line['name']}: {line['what']}")
        number += len(lines)
        if done.returncode not in (0, _TOO_LARGE) and number < first + count:
            outcome, what = _once_more(number, done)
            report.outcomes[outcome] += 1
            report.readers[list(READERS)[number % len(READERS)]][outcome] += 1
            report.ended.append(f"{number}: {what}")
            if outcome == "failure":
                report.failures.append(f"{number}: {what}")
            number += 1
    return report


def _once_more(number: int, before: subprocess.CompletedProcess[bytes]) -> tuple[str, str]:
    """What becomes of a mutant at which a process ended, where it is read as in a run: most readers have their own.

    Their process may end, and that is an error of the input; the process of the run may not.
    """
    command = [sys.executable, "-m", "tests.support.fuzzing.worker", str(number), "1", "guarded"]
    done = subprocess.run(command, capture_output=True, check=False, env=_ENVIRONMENT)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b'{"mutant"')]
    ended = f"signal {-before.returncode}" if before.returncode < 0 else f"status {before.returncode}"
    last = before.stderr[-500:].decode(errors="replace").strip()
    if lines and lines[0]["outcome"] in ("refused", "unforeseen"):
        return "ended", f"{lines[0]['name']}: the reader's process ended by {ended}: {last}"
    again = lines[0] if lines else f"the process of the run ended with {done.returncode}"
    return "failure", f"the process ended by {ended}: {last}; read as in a run: {again}"


def _main(first: int, count: int, guarded: bool) -> None:
    if not guarded:
        resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES, _ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    from naflex_deploy.core.config import resolve
    from naflex_deploy.core.machine import peak_memory
    from naflex_deploy.core.preprocessing import Preprocessing
    from naflex_deploy.runtime.packing.prepare import Preparer
    from tests.support.fuzzing.mutations import mutate
    from tests.support.fuzzing.seeds import seeds

    changes = ["image.tokens=16", "image.frames=all", "image.icc=true", "image.range=frame", "video.rate=1000"]
    profiles = [resolve("photo", settings=settings, environment={}).profile for settings in ([], changes)]
    readers = [Preparer(Preprocessing(patch_size=16), profile, "onnxruntime") for profile in profiles]
    with tempfile.TemporaryDirectory() as work:
        (folder := Path(work) / "seeds").mkdir()
        sound = seeds(folder)
        of_readers = [[seed for seed in sound if seed.reader == reader] for reader in READERS]
        for number in range(first, first + count):
            turn, reader = divmod(number, len(of_readers))  # every reader gets as many
            turn, kind = divmod(turn, len(of_readers[reader]))
            seed, other = of_readers[reader][kind], sound[turn // 2 % len(sound)].content
            path = Path(work) / f"mutant-{number}"
            path.mkdir()
            for name, content in ((seed.name, mutate(seed.content, other, number)), *seed.beside):
                (path / name).write_bytes(content)
            signal.setitimer(signal.ITIMER_PROF, LONGEST)  # of the processor, as others may keep the machine busy
            signal.alarm(6 * LONGEST)
            outcome, what = _read(path if seed.folder else path / seed.name, readers[turn % 2], guarded)
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            peak = peak_memory()
            if peak > MOST:
                outcome, what = "failure", f"{peak >> 20} MiB of memory"
            line = {"mutant": number, "name": seed.name, "reader": seed.reader, "outcome": outcome, "what": what}
            print(json.dumps({**line, "peak": peak >> 20}), flush=True)
            if peak > MOST:
                sys.exit(_TOO_LARGE)
            for file in path.iterdir():
                file.unlink()
            path.rmdir()


def _read(path: Path, reader: Preparer, guarded: bool = False) -> tuple[str, str]:
    """Whether a file is read or refused, and why; ``failure`` where that is no ImageError.

    Args:
        path: Of the file.
        reader: Reads it.
        guarded: Whether as in a run: in a process of its own, where its kind is not read in that of the run.
    """
    from naflex_deploy.core.errors import ImageError, NaflexError
    from naflex_deploy.runtime.images.inputs import open_inputs

    outcome, what = "read", ""
    try:
        for index, item in enumerate(open_inputs([path])):
            if isinstance(item.source, NaflexError):
                errors = [item.source]
            else:
                found = reader(index, item) if guarded else reader.here(index, item)
                results = [image.result for images in found for image in images]
                errors = [result.error for result in results if result.error is not None]
            for error in errors:
                if not isinstance(error, ImageError):
                    return "failure", f"{type(error).__name__}: {error}"
                outcome = "unforeseen" if "cannot be read (" in error.message else "refused"
                what = error.message
    except Exception as error:
        return "failure", f"{type(error).__name__}: {error}"
    return outcome, what


if __name__ == "__main__":
    _main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["guarded"])
