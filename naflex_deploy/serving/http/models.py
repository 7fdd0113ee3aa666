"""The loaded bundles of a server, by name. Each can be replaced while requests run."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from naflex_deploy.core.errors import ImageError, MissingExtraError, UsageError, nearest
from naflex_deploy.core.manifest import Manifest, OutputSpec, Variant
from naflex_deploy.core.pack import Pack, Patches
from naflex_deploy.core.sizing import SmartTiles
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.backends.session import Session
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.images.source import describe
from naflex_deploy.runtime.packing.guarded import SlowError, decided
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.packing.prepared import Prepared
from naflex_deploy.runtime.results.result import Result
from naflex_deploy.runtime.scheduling.decoders import Apart
from naflex_deploy.runtime.scheduling.outcome import PackReport
from naflex_deploy.runtime.scheduling.queue import DeadlineError, Policy
from naflex_deploy.runtime.scheduling.scheduler import Scheduler
from naflex_deploy.runtime.scheduling.texts import TextQueue
from naflex_deploy.runtime.text_encoder import TextEncoder
from naflex_deploy.serving.http.limits import Limits, Sent

Frame = list[tuple[Result, Patches]]
"""The images that an image became: the whole, and its tiles."""


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded bundle and the scheduler that runs it."""

    name: str
    manifest: Manifest
    variant: Variant
    scheduler: Scheduler
    prepare: Preparer
    texts: TextQueue | None = None
    cut: Callable[[Sequence[str]], list[bool]] | None = None
    """Whether each text is longer than the text tower reads."""
    without_texts: str = "its bundle has no text tower, so that it embeds images only"
    """Why it embeds no texts, where it does not."""

    @cached_property
    def image_tokens(self) -> int:
        """Maximum number of patches of one image."""
        return self.manifest.config.image_tokens(self.variant.backend, self.manifest.model.prefix)

    @cached_property
    def outputs(self) -> dict[str, OutputSpec]:
        return {spec.name: spec for spec in self.variant.outputs}

    @property
    def labels(self) -> list[str]:
        """Name of each class; empty where the model has neither a classifier nor labels."""
        return self.manifest.head.labels if self.manifest.head else []

    @cached_property
    def tiled(self) -> bool:
        """Whether an image may be cut into tiles, so that `frame` has to prepare it instead of `work`."""
        image, sizing = self.manifest.config.image, self.manifest.preprocessing.sizing
        return image.tiled or (image.fit == "model" and isinstance(sizing, SmartTiles))

    @cached_property
    def enlarges(self) -> bool:
        """Whether a small tensor may become many patches, which takes milliseconds."""
        return self.manifest.config.image.fit not in ("shrink-only", "pad-to-patch")

    def work(self, image: Sent, limits: Limits, deadline: float = math.inf) -> Callable[[], Patches | Apart]:
        """A function that checks the header of an image and decodes it.

        Args:
            image: The image.
            limits: Of requests.
            deadline: Of the request, on the clock of `time.monotonic`; a reader that can be ended is ended then.
        """
        return partial(self._patches, image, limits, deadline)

    def frame(self, image: Sent, limits: Limits, deadline: float = math.inf) -> Frame | Apart:
        """Check the header of an image, and prepare the whole image and its tiles.

        Raises:
            ImageError: The image is refused or damaged.
        """
        if isinstance(image, np.ndarray):
            limits.check(image)
            return sound(next(self.prepare(0, image)))
        item = decided(Input(describe(image), image))
        if item.tame or item.kind != "picture":
            return sound(self.prepare.first(item, limits.check))
        return Apart(partial(self._slowly, item, limits, deadline))

    def _patches(self, image: Sent, limits: Limits, deadline: float) -> Patches | Apart:
        if isinstance(image, np.ndarray):
            limits.check(image)
            return self.prepare.pixels(image)
        found = self.frame(image, limits, deadline)
        return Apart(lambda: found.rest()[0][1]) if isinstance(found, Apart) else found[0][1]

    def _slowly(self, item: Input, limits: Limits, deadline: float) -> Frame:
        """Like `frame`, of a picture whose reader may take long.

        Raises:
            DeadlineError: Its reader was ended at the deadline.
        """
        try:
            return sound(self.prepare.first(item, limits.check, deadline - time.monotonic()))
        except SlowError:
            if time.monotonic() < deadline:
                raise
            raise DeadlineError("the deadline passed while the image was decoded") from None

    def close(self, timeout: float | None = None) -> bool:
        """See `Scheduler.close`; texts are answered first."""
        texts = self.texts is None or self.texts.close(timeout)
        return self.scheduler.close(timeout) and texts


def sound(images: Sequence[Prepared]) -> Frame:
    """The images of a frame.

    Raises:
        NaflexError: One of them could not be prepared.
    """
    found = []
    for item in images:
        if item.patches is None:
            raise item.result.error or ImageError("expected an image, found none")
        found.append((item.result, item.patches))
    return found


def open_model(
    name: str,
    path: Path,
    *,
    policy: Policy | None = None,
    runs: int = 0,
    decoders: Executor | None = None,
    variant: str | None = None,
    session: Callable[[Path, Variant], Session] = open_session,
    on_pack: Callable[[PackReport], None] = lambda report: None,
    on_texts: Callable[[int], None] = lambda texts: None,
) -> Model:
    """Load a bundle, check its files, and run packs to warm it up for the first request.

    Args:
        name: Name of the model in requests.
        path: Directory of the bundle.
        policy, runs, decoders, on_pack: See `Scheduler`.
        variant: Name of a variant. Default: the first one that this machine can run.
        session: Opens the engine; pass your own function to serve another engine.
        on_texts: See `TextQueue`.

    Raises:
        BundleError: A file is missing or changed.
        IncompatibleError: No variant can run here.
    """
    bundle = Bundle.open(path)
    chosen = bundle.choose(variant)
    bundle.check(bundle.files_of(chosen))
    manifest = bundle.manifest
    engine = session(path, chosen)
    _warm_up(engine, manifest, chosen)
    scheduler = Scheduler(
        engine,
        budget=chosen.budgets[-1],
        max_images=manifest.config.max_images(chosen.backend),
        prefix=manifest.model.prefix,
        policy=policy,
        runs=runs,
        decoders=decoders,
        on_pack=on_pack,
    )
    return _with_texts(Model(name, manifest, chosen, scheduler, Preparer.of(manifest, chosen)), bundle, on_texts)


def _with_texts(model: Model, bundle: Bundle, on_texts: Callable[[int], None]) -> Model:
    """The model with the text tower of its bundle, if it has one that this installation can read."""
    if bundle.manifest.text is None:
        return model
    try:
        encoder = TextEncoder(bundle)
    except MissingExtraError as error:
        return replace(model, without_texts=f"{error.message}: {error.hint}")
    encoder.encode(["a page"])
    return replace(model, texts=TextQueue(encoder.encode, on_run=on_texts), cut=encoder.cut)


def _warm_up(session: Session, manifest: Manifest, variant: Variant) -> None:
    width = manifest.preprocessing.patch_values
    prefix, side = manifest.model.prefix, manifest.preprocessing.merge
    for budget in variant.budgets:
        columns = max(1, (budget - prefix) // side**2) * side
        image = Patches(np.zeros((side * columns, width), np.uint8), (side, columns))
        session.run(Pack.of([image], prefix=prefix), [spec.name for spec in variant.outputs])


class Models:
    """The loaded models by name. `get` may run on the event loop; `reload` blocks and needs another thread.

    Args:
        paths: Directories of the bundles, by name; the first is the default.
        load: Loads one bundle.
    """

    def __init__(self, paths: Mapping[str, Path], load: Callable[[str, Path], Model]) -> None:
        self.paths = dict(paths)
        self._load = load
        self._models = {name: load(name, path) for name, path in self.paths.items()}
        self._reloading = threading.Lock()

    def all(self) -> list[Model]:
        return list(self._models.values())

    def get(self, name: str | None = None) -> Model:
        """The model with this name, or the first one where no name is given.

        Raises:
            UsageError: There is no such model; the hint names the nearest one.
        """
        if not name:
            return next(iter(self._models.values()))
        if name not in self._models:
            raise UsageError(f"no model named '{name}'", hint=nearest(name, self._models))
        return self._models[name]

    def reload(self, name: str) -> None:
        """Load a bundle again and replace the old model, which still answers what it has admitted.

        Raises:
            NaflexError: The bundle cannot be loaded; the old model stays.
        """
        with self._reloading:
            self.get(name)
            new = self._load(name, self.paths[name])
            old, self._models[name] = self._models[name], new
        old.close(600)

    def close(self, timeout: float) -> bool:
        """Close all models; returns whether each answered all that it had admitted within ``timeout`` seconds."""
        answered = [model.close(timeout) for model in self.all()]
        return all(answered)
