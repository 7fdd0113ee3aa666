"""The engine: takes images of any size, runs them in packs, and returns one result per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.config import adjust
from naflex_deploy.core.errors import BundleError, NaflexError, UsageError
from naflex_deploy.core.files import identity
from naflex_deploy.core.locks import standing
from naflex_deploy.core.machine import cores
from naflex_deploy.core.manifest import Manifest, Variant
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.backends.session import OnDevice, Session
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.images.inputs import require_list
from naflex_deploy.runtime.packing.grouping import PackMaker
from naflex_deploy.runtime.packing.pack_stream import Images, PackStream, prepare_ahead
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.results.classes import Prediction, rank
from naflex_deploy.runtime.results.result import Result, by_frame, join
from naflex_deploy.runtime.results.tokens import Floats, Packed, merge_blocks, narrowed
from naflex_deploy.runtime.text_encoder import TextEncoder

Float = npt.NDArray[np.float32]
T = TypeVar("T")

ATTEMPTS = 20
"""Times that a bundle is loaded, where another process replaces it each time."""


class Engine:
    """A loaded variant of a bundle, as `naflex_deploy.load` returns it.

    Images come in a list or any other iterable: paths, bytes, open binary files, Pillow images or [h, w, 3] uint8
    arrays, of any size; or `Patches`, which are cut already. All methods are thread-safe.

    Args:
        session: Runs packs.
        manifest: Manifest of the bundle.
        variant: The variant that the session runs.
        text: Opens the text tower; ``None`` where there is none.
        why: The reason why it was this variant that was loaded, for a person.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        variant: Variant,
        text: Callable[[], TextEncoder] | None = None,
        why: str = "",
    ) -> None:
        self.manifest = manifest
        self.variant = variant
        self.why = why
        self._session = session
        self._prepare = Preparer.of(manifest, variant)
        self._maker = PackMaker(variant.budgets[-1], manifest.config.packing.max_images, manifest.model.prefix)
        self._open_text = text

    def __repr__(self) -> str:
        return (
            f"<Engine {self.variant.name} of {self.manifest.model.source}, packs of up to {self._maker.tokens} tokens>"
        )

    @property
    def labels(self) -> list[str]:
        """Name of each class; empty where the bundle has neither a classifier nor labels."""
        return self.manifest.head.labels if self.manifest.head else []

    @cached_property
    def text(self) -> TextEncoder:
        """The text tower, opened when it is first asked for.

        Raises:
            UsageError: The bundle has no text tower.
            MissingExtraError: The package ``tokenizers`` is not installed.
        """
        if self._open_text is None:
            raise UsageError("this engine has no text tower", hint="load a bundle that was built with --text")
        return self._open_text()

    def embed(self, images: Images) -> Float:
        """Embed every image as one vector.

        Returns:
            [N, D] float32, in order. A document, scan or clip gives one row per frame; `join` says how the vectors of
            a frame's tiles become one.

        Raises:
            UsageError: ``images`` is a single image instead of a list.
            ImageError: An input is not an image. `stream` reports such inputs and continues.
            EngineError: The engine failed on an image, which `stream` also reports, or on every image.
        """
        rows = self._all(images, "pooled", lambda pooled: pooled)
        return np.stack(rows) if rows else np.zeros((0, self._width("pooled")), np.float32)

    def tokens(
        self, images: Images, output: str = "tokens", *, merge: int = 1, dtype: npt.DTypeLike = np.float32
    ) -> list[Floats]:
        """Embed every patch: one [h, w, D] array per image, in order. Tiles are stitched into their page.

        Args:
            images: As for `embed`.
            output: ``tokens``, or the output of a block that the profile lists: ``tokens:-K``, ``tokens:-K:norm``.
            merge: Merge blocks of this many rows and columns into one token, as decoders expect; see `merge_blocks`.
            dtype: float32, or float16 for half the memory.

        Raises:
            ImageError: An input is not an image.
            UsageError: A grid does not divide into such blocks, or a value does not fit into ``dtype``.
        """
        self._width(output)
        if not output.startswith("tokens"):
            raise UsageError(
                f"expected an output per token, found '{output}', which has one vector per image",
                hint="get it from stream() or embed()",
            )
        return self._all(images, output, lambda tokens: narrowed(merge_blocks(tokens, merge), np.dtype(dtype)))

    def packed(self, images: Images, output: str = "tokens") -> Iterator[Packed]:
        """Yield an output pack by pack, where the engine left it: in GPU memory, or as numpy arrays on a CPU.

        Both support DLPack, so ``torch.from_dlpack(found.values)`` copies nothing. GPU memory is reused once its last
        tensor is released, so wait for kernels on your own streams that read it before you release it. All images are
        prepared before the first pack runs. Values are not checked and may be NaN.

        Raises:
            ImageError: An input is not an image.
        """
        self._width(output)
        run = self._session.run_on_device if isinstance(self._session, OnDevice) else self._session.run
        frames = (frame for index, source in enumerate(require_list(images)) for frame in self._prepare(index, source))
        window = [prepared for frame in frames for prepared in frame]
        for prepared in window:
            if prepared.result.error is not None:
                raise prepared.result.error
        for number, members in enumerate(self._maker.packs(window)):
            pack = self._maker.pack(members)
            results = [replace(item.result, pack=number) for item in members]
            yield Packed.of(pack, run(pack, (output,))[output], results, per_token=output.startswith("tokens"))

    def classify(self, images: Images, top: int = 5) -> list[list[Prediction]]:
        """Classify every image: names and scores, best first. Classes below their threshold are left out.

        Args:
            images: As for `embed`.
            top: Maximum number of classes per image, at least 1.

        Raises:
            UsageError: The bundle has neither a classifier nor labels.
            ImageError: An input is not an image.
        """
        if top < 1:
            raise UsageError(f"top: expected at least 1, found {top}", hint="pass the number of classes you want")
        head = self.manifest.head
        if head is None:
            raise UsageError(
                "the bundle has no classes, because its model has neither a classifier nor labels",
                hint="build a two-tower model with --labels, or a model that was fine-tuned for classification",
            )
        return self._all(images, "logits", lambda logits: rank(logits, head, top))

    def stream(self, images: Images, outputs: str | Sequence[str] = ("pooled",)) -> Iterator[Result]:
        """Yield results as packs finish, not in input order. Memory is bounded by a window of a few packs.

        A frame that is cut into tiles gives one result for the whole frame and one per tile; `by_frame` and `join`
        combine them. A bad image gives a result with an ``error`` and does not affect the others.

        Args:
            images: As for `embed`; may be endless.
            outputs: Name or names of the outputs to compute: ``pooled``, ``tokens``, ``logits``.

        Raises:
            UsageError: The bundle has no such output, or ``images`` is a single image instead of a list.
            EngineError: The engine fails on every image, even on a blank one.
        """
        names = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        for name in names:
            self._width(name)
        images = require_list(images)
        with ThreadPoolExecutor(cores(), "naflex") as pool:
            try:
                frames = prepare_ahead(self._prepare, images, pool)
                yield from PackStream(self._session, self._maker, names, pool).results(frames)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _all(self, images: Images, output: str, finish: Callable[[Float], T]) -> list[T]:
        """Apply ``finish`` to an output of every frame as results arrive, and return them in input order."""
        finished: dict[tuple[int, int], T] = {}
        failed: dict[tuple[int, int], NaflexError] = {}
        for result in map(join, by_frame(self.stream(images, (output,)))):
            key = (result.input, result.frame)
            if result.error is None:
                finished[key] = finish(result.outputs[output])
            else:
                failed[key] = result.error
        if failed:
            raise failed[min(failed)]
        return [finished[key] for key in sorted(finished)]

    def _width(self, output: str) -> int:
        for spec in self.variant.outputs:
            if spec.name == output:
                return int(spec.shape[-1])
        raise UsageError(
            f"the bundle has no output '{output}', expected one of {[spec.name for spec in self.variant.outputs]}",
            hint="add it to 'outputs' of the profile and build again",
        )


def load_engine(
    path: Path,
    variant: str | None = None,
    session: Callable[[Path, Variant], Session] = open_session,
    settings: str | Sequence[str] = (),
) -> Engine:
    """Open a bundle, choose a variant, check its files and load its engine, in this order.

    A bundle that is replaced meanwhile is loaded again, so that an engine is never of two bundles.

    Args:
        path: Directory of the bundle.
        variant: Name of a variant. Default: the first one that this machine can run.
        session: Opens the engine; a server may pass its own function.
        settings: How inputs are read; see `adjust`.
    """
    for _ in range(ATTEMPTS):
        stands = standing(path)
        before = identity(stands)
        try:
            engine = _open_engine(Bundle.open(stands), variant, session, settings)
        except NaflexError:
            if identity(standing(path)) == before:
                raise
        else:
            if identity(standing(path)) == before:
                return engine
    raise BundleError(f"{path} was replaced {ATTEMPTS} times while it was loaded", hint="load it again")


def _open_engine(
    bundle: Bundle, variant: str | None, session: Callable[[Path, Variant], Session], settings: str | Sequence[str]
) -> Engine:
    manifest = bundle.manifest.model_copy(update={"config": adjust(bundle.manifest.config, settings)})
    chosen = bundle.choose(variant)
    files = bundle.files_of(chosen)
    bundle.check(files)
    opened = session(bundle.path, chosen)
    bundle.refuse_changed(files)
    why = bundle.why(chosen) if variant is None else "it was asked for by name"
    return Engine(opened, manifest, chosen, partial(TextEncoder, bundle), why)
