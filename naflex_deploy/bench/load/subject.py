"""The bundle under test, loaded as its user would load it, with every pack recorded."""

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
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.loading import load_engine
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.packing.prepared import Prepared
from naflex_deploy.runtime.results.result import Result


@dataclass(eq=False)
class Subject:
    """A loaded bundle that is measured.

    Attributes:
        path: Path of the bundle.
        engine: The engine, as a user would load it.
        session: The session that runs its packs, and records them.
        runs: The packs recorded since the last `take_runs`.
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
        """The output that is computed: ``pooled``, or the first output if there is no such output."""
        names = [spec.name for spec in self.variant.outputs]
        return ("pooled" if "pooled" in names else names[0],)

    def take_runs(self) -> list[PackRun]:
        """Return the packs that ended since the last call, and forget them."""
        count = len(self.runs)
        taken, self.runs[:count] = self.runs[:count], []
        return taken


def open_subject(
    path: Path, variant: str | None = None, session: Callable[[Path, Variant], Session] = open_session
) -> Subject:
    """Load a bundle.

    Args:
        path: Path of the bundle.
        variant: Name of a variant; defaults to the first that fits this machine.
        session: Opens the session of a variant.

    Raises:
        BundleError, IncompatibleError: As for `load_engine`.
    """
    runs: list[PackRun] = []
    opened: list[Session] = []

    def open_recorded(path: Path, variant: Variant) -> Session:
        opened.append(recorded(session(path, variant), runs.append))
        return opened[-1]

    engine = load_engine(path, variant, open_recorded)
    return Subject(path, engine, opened[-1], runs)


def sound(subject: Subject, mix: Mix) -> tuple[list[bytes], list[Prepared], list[Result]]:
    """Select the files whose frames can all be prepared.

    Returns:
        These files, their prepared images, and the results of frames that cannot be prepared.

    Raises:
        UsageError: No image can be prepared.
    """
    preparer = Preparer.of(subject.manifest, subject.variant)
    inputs = [Input(name, source) for name, source in zip(mix.names, mix.sources, strict=True)]
    images = [image for index, item in enumerate(inputs) for frame in preparer(index, item) for image in frame]
    rejected = [image.result for image in images if image.patches is None]
    bad = {result.input for result in rejected}
    kept = {old: new for new, old in enumerate(index for index in range(len(inputs)) if index not in bad)}
    if not kept:
        reason = rejected[0].error if rejected else "there are none"
        raise UsageError(f"none of {len(inputs)} images can be measured: {reason}", hint="use other images")
    good = [
        replace(image, result=replace(image.result, input=kept[image.result.input]))
        for image in images
        if image.result.input in kept
    ]
    return [mix.sources[index] for index in kept], good, rejected
