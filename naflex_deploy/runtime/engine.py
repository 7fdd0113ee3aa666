"""The engine: takes images of any size, runs them in packs, and returns one result per image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from types import TracebackType
from typing import Literal, Self, TypeVar, overload

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import NaflexError, UsageError
from naflex_deploy.core.manifest import Manifest, OutputSpec, Variant
from naflex_deploy.core.pack import on_grid
from naflex_deploy.runtime.asynchronous import in_thread, step_by_step
from naflex_deploy.runtime.backends.session import OnDevice, Session
from naflex_deploy.runtime.images.inputs import as_list, require_list
from naflex_deploy.runtime.packing.grouping import PackMaker
from naflex_deploy.runtime.packing.pack_stream import Image, Images, PackStream, prepare_ahead, threads
from naflex_deploy.runtime.packing.prepare import Preparer
from naflex_deploy.runtime.results.classes import Prediction, rank
from naflex_deploy.runtime.results.embeddings import Embeddings, only, unit
from naflex_deploy.runtime.results.result import Result, by_frame, join
from naflex_deploy.runtime.results.tokens import Floats, Packed, merge_blocks, narrowed
from naflex_deploy.runtime.text_encoder import TextEncoder

Float = npt.NDArray[np.float32]
T = TypeVar("T")


class Engine:
    """A loaded variant of a bundle, as `naflex_deploy.load` returns it.

    An image is a path, bytes, an open binary file, a Pillow image, an array [h, w, 3] of uint8 or of floats in 0…1, or
    a torch tensor [3, h, w] of either, of any size; or `Patches`, which are cut already. URLs are never fetched.
    Several images come in a list or any other iterable. All methods are thread-safe, and those that compute have an
    async variant, such as ``await engine.aembed(images)``. As a context manager, an engine is closed at the end.

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
        self._session: Session | None = session
        self._prepare = Preparer.of(manifest, variant)
        self._maker = PackMaker(variant.budgets[-1], manifest.config.max_images(variant.backend), manifest.model.prefix)
        self._open_text = text

    def __repr__(self) -> str:
        return (
            f"<Engine {self.variant.name} of {self.manifest.model.source}, packs of up to {self._maker.tokens} tokens>"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Release the engine, its memory and its text tower. Streams that are running go on to their end."""
        self._session = None
        self.__dict__.pop("text", None)

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
        self._opened()
        if self._open_text is None:
            raise UsageError("this engine has no text tower", hint="load a bundle that was built with --text")
        return self._open_text()

    @overload
    def embed(
        self, images: Image | Images, *, normalize: bool = False, return_index: Literal[False] = False
    ) -> Float: ...

    @overload
    def embed(self, images: Image | Images, *, normalize: bool = False, return_index: Literal[True]) -> Embeddings: ...

    def embed(
        self, images: Image | Images, *, normalize: bool = False, return_index: bool = False
    ) -> Float | Embeddings:
        """Embed every image as one vector.

        Args:
            images: One image, or several.
            normalize: Divide each vector by its length, so that inner products are cosines.
            return_index: Return the input, frame and box of each vector beside it.

        Returns:
            [D] float32 of one image; [N, D] of several, in order. A document, scan or clip among several gives one row
            per frame; `join` says how the vectors of a frame's tiles become one. With ``return_index``, always rows.

        Raises:
            UsageError: One input was passed, which has several frames, without ``return_index``.
            ImageError: An input is not an image. `stream` reports such inputs and continues.
            EngineError: The engine failed on an image, which `stream` also reports, or on every image.
        """
        sources, alone = as_list(images)
        frames, rows = self._all(sources, "pooled", unit if normalize else lambda pooled: pooled)
        if alone and not return_index:
            return only(frames, rows)
        vectors = np.stack(rows) if rows else np.zeros((0, self._width("pooled")), np.float32)
        if not return_index:
            return vectors
        return Embeddings.of(frames, vectors)

    def similarity(self, images: Image | Images, texts: str | Sequence[str]) -> Float:
        """Cosine of the angle between the vectors of images and of texts.

        Returns:
            [N, M] float32 for N images (frames) and M texts; without the axis of what was passed as a single one.

        Raises:
            UsageError: The bundle has no text tower.
            ImageError: An input is not an image.
        """
        text = self.text.embed(texts, normalize=True)
        return np.asarray(self.embed(images, normalize=True) @ text.T, np.float32)

    @overload
    def tokens(  # type: ignore[overload-overlap]  # text is a path here, never an iterable of letters
        self, images: Image, output: str = "tokens", *, merge: int = 1, dtype: npt.DTypeLike = np.float32
    ) -> Floats: ...

    @overload
    def tokens(
        self, images: Images, output: str = "tokens", *, merge: int = 1, dtype: npt.DTypeLike = np.float32
    ) -> list[Floats]: ...

    def tokens(
        self, images: Image | Images, output: str = "tokens", *, merge: int = 1, dtype: npt.DTypeLike = np.float32
    ) -> Floats | list[Floats]:
        """Embed every patch: one [h, w, D] array per image, in order. Tiles are stitched into their page.

        Args:
            images: One image, which gives one array, or several, which give a list.
            output: ``tokens``, or the output of a block that the profile lists: ``tokens:-K``, ``tokens:-K:norm``; or
                ``vlm`` or ``deepstack:K`` of a vision-language model, a grid of the language model's tokens.
            merge: Merge blocks of this many rows and columns into one token, as decoders expect; see `merge_blocks`.
            dtype: float32, or float16 or bfloat16 for half the memory; see `narrowed`.

        Raises:
            ImageError: An input is not an image.
            UsageError: A grid does not divide into such blocks, or a value does not fit into ``dtype``.
        """
        self._width(output)
        if not on_grid(output):
            raise UsageError(
                f"expected an output per token, found '{output}', which has one vector per image",
                hint="get it from stream() or embed()",
            )
        sources, alone = as_list(images)
        frames, found = self._all(sources, output, lambda tokens: narrowed(merge_blocks(tokens, merge), dtype))
        return only(frames, found) if alone else found

    def packed(self, images: Images, output: str = "tokens") -> Iterator[Packed]:
        """Yield an output pack by pack, where the engine left it: in GPU memory, or as numpy arrays on a CPU.

        Both support DLPack, so ``torch.from_dlpack(found.values)`` copies nothing. GPU memory is reused once its last
        tensor is released, so wait for kernels on your own streams that read it before you release it. All images are
        prepared before the first pack runs. Values are not checked and may be NaN.

        Raises:
            ImageError: An input is not an image.
        """
        per_row = self._spec(output).tokens_per_row
        session = self._opened()
        run = session.run_on_device if isinstance(session, OnDevice) else session.run
        frames = (frame for index, source in enumerate(require_list(images)) for frame in self._prepare(index, source))
        window = [prepared for frame in frames for prepared in frame]
        for prepared in window:
            if prepared.result.error is not None:
                raise prepared.result.error
        for number, members in enumerate(self._maker.packs(window)):
            pack = self._maker.pack(members)
            results = [replace(item.result, pack=number) for item in members]
            yield Packed.of(pack, run(pack, (output,))[output], results, per_row)

    @overload
    def classify(self, images: Image, top: int = 5) -> list[Prediction]: ...  # type: ignore[overload-overlap]

    @overload
    def classify(self, images: Images, top: int = 5) -> list[list[Prediction]]: ...

    def classify(self, images: Image | Images, top: int = 5) -> list[Prediction] | list[list[Prediction]]:
        """Classify every image: names and scores, best first. Classes below their threshold are left out.

        Args:
            images: One image, which gives one list of classes, or several.
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
        sources, alone = as_list(images)
        frames, found = self._all(sources, "logits", lambda logits: rank(logits, head, top))
        return only(frames, found) if alone else found

    aembed = in_thread(embed)
    atokens = in_thread(tokens)
    aclassify = in_thread(classify)
    asimilarity = in_thread(similarity)

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
        images, session = require_list(images), self._opened()
        with threads() as pool:
            frames = prepare_ahead(self._prepare, images, pool)
            yield from PackStream(session, self._maker, names, pool).results(frames)

    astream = step_by_step(stream)

    def _opened(self) -> Session:
        if self._session is None:
            raise UsageError("the engine is closed", hint="load it again, or use it inside its with block")
        return self._session

    def _all(self, images: Images, output: str, finish: Callable[[Float], T]) -> tuple[list[Result], list[T]]:
        """Apply ``finish`` to an output of every frame as results arrive; both in input order."""
        finished: dict[tuple[int, int], tuple[Result, T]] = {}
        failed: dict[tuple[int, int], NaflexError] = {}
        for result in map(join, by_frame(self.stream(images, (output,)))):
            key = (result.input, result.frame)
            if result.error is None:
                finished[key] = replace(result, outputs={}), finish(result.outputs[output])
            else:
                failed[key] = result.error
        if failed:
            raise failed[min(failed)]
        found = [finished[key] for key in sorted(finished)]
        return [frame for frame, _ in found], [value for _, value in found]

    def _width(self, output: str) -> int:
        return int(self._spec(output).shape[-1])

    def _spec(self, output: str) -> OutputSpec:
        for spec in self.variant.outputs:
            if spec.name == output:
                return spec
        raise UsageError(
            f"the bundle has no output '{output}', expected one of {[spec.name for spec in self.variant.outputs]}",
            hint="add it to 'outputs' of the profile and build again",
        )
