"""A bundle that is measured: loaded as its user would load it, every pack noted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from naflex_deploy.bench.load.mixes import Mix
from naflex_deploy.bench.load.recording import PackRun, recorded
from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.backends.session import Session
from naflex_deploy.runtime.engine import Engine, load_engine
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.packing.prepare import Prepared, Preparer
from naflex_deploy.runtime.results.result import Result


@dataclass(eq=False)
class Subject:
    """A loaded bundle.

    Attributes:
        path: Of the bundle.
        engine: What its user would hold.
        session: What runs its packs.
        runs: Every pack so far.
    """

    path: Path
    engine: Engine
    session: Session
    runs: list[PackRun] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest:
        return self.engine.manifest

    @property
    def variant(self) -> Variant:
        return self.engine.variant

    @property
    def outputs(self) -> tuple[str, ...]:
        """What is asked for: ``pooled``, or the first output where there is none."""
        names = [spec.name for spec in self.variant.outputs]
        return ("pooled" if "pooled" in names else names[0],)

    def take_runs(self) -> list[PackRun]:
        """The packs that ended since the last call."""
        count = len(self.runs)
        taken, self.runs[:count] = self.runs[:count], []
        return taken


def open_subject(
    path: Path, variant: str | None = None, session: Callable[[Path, Variant], Session] = open_session
) -> Subject:
    """Load a bundle.

    Args:
        variant: Name of a variant, or the first that fits this machine.
        session: Opens the engine.

    Raises:
        BundleError, IncompatibleError: See `load_engine`.
    """
    runs: list[PackRun] = []
    opened: list[Session] = []

    def open_recorded(path: Path, variant: Variant) -> Session:
        opened.append(recorded(session(path, variant), runs.append))
        return opened[-1]

    engine = load_engine(path, variant, open_recorded)
    return Subject(path, engine, opened[-1], runs)


def sound(subject: Subject, mix: Mix) -> tuple[list[bytes], list[Prepared], list[Result]]:
    """The files that can be prepared in all their frames, what becomes of them, and the frames that cannot.

    Raises:
        UsageError: No image can.
    """
    preparer = Preparer.of(subject.manifest, subject.variant)
    inputs = [Input(name, source) for name, source in zip(mix.names, mix.sources, strict=True)]
    images = [image for index, item in enumerate(inputs) for frame in preparer(index, item) for image in frame]
    rejected = [image.result for image in images if image.patches is None]
    bad = {result.input for result in rejected}
    kept = {old: new for new, old in enumerate(index for index in range(len(inputs)) if index not in bad)}
    if not kept:
        reason = rejected[0].error if rejected else "there are none"
        raise UsageError(f"none of {len(inputs)} images can be measured: {reason}", hint="give others")
    good = [
        replace(image, result=replace(image.result, input=kept[image.result.input]))
        for image in images
        if image.result.input in kept
    ]
    return [mix.sources[index] for index in kept], good, rejected
