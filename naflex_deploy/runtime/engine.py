"""The engine: images of any size in, one result an image out, packed in between."""

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
from naflex_deploy.core.errors import NaflexError, UsageError
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


class Engine:
    """A loaded variant of a bundle. Made by `naflex_deploy.load`.

    Images come in a list or any iterable: paths, bytes, open binary files, Pillow images or [h, w, 3] uint8 arrays, of
    any size; or `Patches`, which were cut from one already. Any thread may call any method.

    Args:
        session: Runs packs.
        manifest: Of the bundle.
        variant: The one the session runs.
        text: Opens the text tower.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        variant: Variant,
        text: Callable[[], TextEncoder] | None = None,
    ) -> None:
        self.manifest = manifest
        self.variant = variant
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
            UsageError: The bundle has none.
            MissingExtraError: The package ``tokenizers`` is not installed.
        """
        if self._open_text is None:
            raise UsageError("this engine has no text tower", hint="load a bundle that was built with --text")
        return self._open_text()

    def embed(self, images: Images) -> Float:
        """One vector an image.

        Returns:
            [N, D] float32, in order. A document, scan or clip gives a row a frame; one cut into tiles as `join` says.

        Raises:
            UsageError: It is one image and no list.
            ImageError: An input is no image; `stream` reports such without stopping.
            EngineError: The engine failed on an image, which `stream` reports likewise, or altogether.
        """
        rows = self._all(images, "pooled", lambda pooled: pooled)
        return np.stack(rows) if rows else np.zeros((0, self._width("pooled")), np.float32)

    def tokens(
        self, images: Images, output: str = "tokens", *, merge: int = 1, dtype: npt.DTypeLike = np.float32
    ) -> list[Floats]:
        """Every patch's vector: [h, w, D] an image, in order. Tiles are stitched to their page.

        Args:
            images: As for `embed`.
            output: ``tokens``, or one of a block where the profile asked for it: ``tokens:-K``, ``tokens:-K:norm``.
            merge: Put blocks of this many rows and columns together, as decoders want them; see `merge_blocks`.
            dtype: float32, or float16 for half the memory.

        Raises:
            ImageError: An input is no image.
            UsageError: A grid does not divide into such blocks, or a value does not fit into ``dtype``.
        """
        self._width(output)
        if not output.startswith("tokens"):
            raise UsageError(
                f"expected an output of tokens, found '{output}', a vector an image", hint="ask stream or embed for it"
            )
        return self._all(images, output, lambda tokens: narrowed(merge_blocks(tokens, merge), np.dtype(dtype)))

    def packed(self, images: Images, output: str = "tokens") -> Iterator[Packed]:
        """Outputs pack by pack where the engine left them: in GPU memory, or as numpy arrays where it has no GPU.

        Either speaks DLPack, so that ``torch.from_dlpack(found.values)`` copies nothing. GPU memory is used again once
        its last tensor is gone: where kernels of a stream of your own read it, wait for them first. All images are
        prepared first; values are not looked at, and may be NaN.

        Raises:
            ImageError: An input is no image.
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
        """Names and scores of each image's best classes, best first; those below their threshold are left out.

        Args:
            images: As for `embed`.
            top: How many, at least 1.

        Raises:
            UsageError: The bundle has neither a classifier nor labels.
            ImageError: An input is no image.
        """
        if top < 1:
            raise UsageError(f"top: expected at least 1, found {top}", hint="pass how many classes you want")
        head = self.manifest.head
        if head is None:
            raise UsageError(
                "the bundle names no classes: its model has no classifier",
                hint="build a two-tower model with --labels, or a model that was fine-tuned for classification",
            )
        return self._all(images, "logits", lambda logits: rank(logits, head, top))

    def stream(self, images: Images, outputs: str | Sequence[str] = ("pooled",)) -> Iterator[Result]:
        """Results as packs finish, not in order; memory is bounded by a window of a few packs.

        A frame cut into tiles gives a result a tile, and one of the whole; `by_frame` and `join` bring them together.
        A bad image yields a result with an ``error`` and leaves the others unharmed.

        Args:
            images: As for `embed`; may be endless.
            outputs: Name or names of the outputs wanted: ``pooled``, ``tokens``, ``logits``.

        Raises:
            UsageError: The bundle has no such output, or it is one image and no list.
            EngineError: The engine fails on every image, also on a blank one.
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
        """Of every frame, in order, what ``finish`` makes of an output; it is called as results come."""
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
    """Open a bundle, choose a variant, check its files, load its engine: in that order.

    Args:
        path: Of the bundle.
        variant: Name of a variant, or the first that fits this machine.
        session: Opens the engine; a server may bring its own.
        settings: How inputs are read, see `adjust`.
    """
    bundle = Bundle.open(path)
    manifest = bundle.manifest.model_copy(update={"config": adjust(bundle.manifest.config, settings)})
    chosen = bundle.choose(variant)
    bundle.check(bundle.files_of(chosen))
    return Engine(session(path, chosen), manifest, chosen, partial(TextEncoder, bundle))
