"""Saves the progress of a calibration beside its output, so that a later run can resume after it was killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from naflex_deploy.compiler.quantize.coverage import Record
from naflex_deploy.compiler.quantize.observation import SiteObservation
from naflex_deploy.compiler.quantize.spec import QuantSpec
from naflex_deploy.core.errors import UsageError, explain_os_errors
from naflex_deploy.core.files import new_file
from naflex_deploy.core.pack import Patches
from naflex_deploy.runtime.results.key import Key

_AGAIN = "run without --resume to start again"


@dataclass
class Progress:
    """The state of a calibration that is under way.

    Attributes:
        order: Files in the order in which they are tried.
        place: Index of the next file in ``order``.
        records: A record of each file that was used, either observed or held out for the gate.
        held_out: Number of records held out for the gate.
        copies: Number of files left out because a file with the same content was used already.
        rejected: (path, reason) of each file that could not be read.
        sites: Merged observations, by all names of a site.
        gate: Images held out for the gate.
        tuning: Some of the observed images, kept for tuning.
        gate_labels, tuning_labels: Class of each of these images, if classes were given.
    """

    order: Sequence[str]
    place: int = 0
    records: list[Record] = field(default_factory=list)
    held_out: int = 0
    copies: int = 0
    rejected: list[tuple[str, str]] = field(default_factory=list)
    sites: dict[tuple[str, ...], SiteObservation] = field(default_factory=dict)
    gate: list[Patches] = field(default_factory=list)
    tuning: list[Patches] = field(default_factory=list)
    gate_labels: list[str] = field(default_factory=list)
    tuning_labels: list[str] = field(default_factory=list)

    @property
    def observed(self) -> int:
        """Number of files observed so far."""
        return len(self.records) - self.held_out

    def spec(self, empty: QuantSpec, coverage: Mapping[str, object]) -> QuantSpec:
        """The calibration from what has been observed so far."""
        return replace(
            empty,
            samples=tuple(record.digest for record in self.records if not record.gate),
            sites={name: seen for names, seen in self.sites.items() for name in names},
            gate_samples=tuple(self.gate),
            tuning_samples=tuple(self.tuning),
            gate_labels=tuple(self.gate_labels),
            tuning_labels=tuple(self.tuning_labels),
            coverage=coverage,
        )


class Journal:
    """A directory beside the output that holds the saved progress.

    Args:
        output: The calibration file.
        empty: The calibration before anything was observed.
        key: What decides the calibration; a journal with another key is not resumed.

    Attributes:
        folder: The directory of the journal.
    """

    def __init__(self, output: Path, empty: QuantSpec, key: Key) -> None:
        self._output = output
        self._empty = empty
        self._key = key
        self.folder = output.with_name(f".{output.name}.journal")

    def start(self, order: Sequence[str]) -> Progress:
        """Start a new calibration.

        Raises:
            OutputError: The journal cannot be written.
        """
        with explain_os_errors(self._output):
            self.remove()
            self.folder.mkdir(parents=True)
            with new_file(self._begun) as partial:
                partial.write_text(json.dumps({"key": self._key.parts, "order": list(order)}), encoding="utf-8")
        return Progress(order)

    def resume(self) -> Progress | None:
        """Load the progress of an earlier run; ``None`` if there is none.

        Raises:
            UsageError: The earlier run was another calibration, or its record is damaged; says what differs.
        """
        if not self._begun.exists():
            return None
        before, order = self._read()
        if differ := self._key.differences(before):
            raise UsageError(f"{self.folder} was begun with something else: {'; '.join(differ)}", hint=_AGAIN)
        progress = Progress(order)
        if self._state.exists():
            spec = QuantSpec.read(self._state)
            progress.place = spec.coverage["place"]
            progress.records = [Record.from_json(values) for values in spec.coverage["records"]]
            progress.held_out = sum(record.gate for record in progress.records)
            progress.copies = spec.coverage["copies"]
            progress.rejected = [(path, reason) for path, reason in spec.coverage["rejected"]]
            progress.sites = spec.groups
            progress.gate, progress.tuning = list(spec.gate_samples), list(spec.tuning_samples)
            progress.gate_labels, progress.tuning_labels = list(spec.gate_labels), list(spec.tuning_labels)
        return progress

    def keep(self, progress: Progress) -> None:
        """Save the progress.

        Raises:
            OutputError: The journal cannot be written.
        """
        so_far = {
            "place": progress.place,
            "records": [asdict(record) for record in progress.records],
            "copies": progress.copies,
            "rejected": progress.rejected,
        }
        progress.spec(self._empty, so_far).write(self._state)

    def remove(self) -> None:
        """Remove the journal."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self) -> tuple[dict[str, object], list[str]]:
        """The key and the order of an earlier run."""
        try:
            begun = json.loads(self._begun.read_bytes())
            return dict(begun["key"]), list(map(str, begun["order"]))
        except (ValueError, KeyError, TypeError) as error:  # or an earlier version wrote it, whose key was a list
            raise UsageError(
                f"{self._begun} is damaged or of another version: {type(error).__name__}", hint=_AGAIN
            ) from None

    @property
    def _begun(self) -> Path:
        return self.folder / "order.json"

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"
