"""How far a calibration has come, kept beside its output so that the next run goes on after a kill."""

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


@dataclass
class Progress:
    """What was observed so far.

    Attributes:
        order: Files in the order in which they are tried.
        place: Of the next file in ``order``.
        records: Of each file that was taken, to be observed or for the gate.
        held_out: Records of the gate.
        copies: Files that were left out, as one of the same content was taken.
        rejected: (path, reason) of each that could not be read.
        sites: Merged observations, by all names of a site.
        gate, tuning: Images held out, and images observed that are kept.
        gate_labels, tuning_labels: Class of each of these, where there are classes.
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
        """Files that were."""
        return len(self.records) - self.held_out

    def spec(self, empty: QuantSpec, coverage: Mapping[str, object]) -> QuantSpec:
        """The calibration as far as it has come."""
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
    """A directory beside the output.

    Args:
        output: The calibration file.
        empty: The calibration before anything was observed.
        key: What else the choice of images depends on; a journal of another one is not resumed.

    Attributes:
        folder: The directory.
    """

    def __init__(self, output: Path, empty: QuantSpec, key: Sequence[object]) -> None:
        self._output = output
        self._empty = empty
        self._key = [empty.key, *key]
        self.folder = output.with_name(f".{output.name}.journal")

    def start(self, order: Sequence[str]) -> Progress:
        """Begin anew.

        Raises:
            OutputError: It cannot be written.
        """
        with explain_os_errors(self._output):
            self.remove()
            self.folder.mkdir(parents=True)
            with new_file(self._begun) as partial:
                partial.write_text(json.dumps({"key": self._key, "order": list(order)}), encoding="utf-8")
        return Progress(order)

    def resume(self) -> Progress | None:
        """What an earlier run left; ``None`` where there is nothing.

        Raises:
            UsageError: It was another calibration.
        """
        if not self._begun.exists():
            return None
        begun = json.loads(self._begun.read_text(encoding="utf-8"))
        if begun["key"] != self._key:
            raise UsageError(
                f"{self.folder} was begun with another model, profile, directory, method or seed",
                hint="run without --resume to begin anew",
            )
        progress = Progress(begun["order"])
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
        """Write down how far it has come.

        Raises:
            OutputError: It cannot be written.
        """
        so_far = {
            "place": progress.place,
            "records": [asdict(record) for record in progress.records],
            "copies": progress.copies,
            "rejected": progress.rejected,
        }
        progress.spec(self._empty, so_far).write(self._state)

    def remove(self) -> None:
        """Leave nothing to resume."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _begun(self) -> Path:
        return self.folder / "order.json"

    @property
    def _state(self) -> Path:
        return self.folder / "state.json"
