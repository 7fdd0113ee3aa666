"""One run: inputs are expanded, embedded frame by frame, recorded in a journal and written to the output at the end.

from naflex_deploy.runtime.embedding.run import Places, embed_files
summary = embed_files(engine, [Path("scans")], Places(output=Path("scans.npz")), resume=True)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.files import new_file
from naflex_deploy.core.version import TOOL
from naflex_deploy.runtime.embedding.previews import Previews
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.inputs import Input, expand, open_inputs
from naflex_deploy.runtime.results.classes import rank
from naflex_deploy.runtime.results.journal import Done, Journal
from naflex_deploy.runtime.results.result import Result, by_frame, join
from naflex_deploy.runtime.results.table import Provenance, Row


@dataclass(frozen=True)
class Places:
    """Where a run writes.

    Attributes:
        output: The file of vectors; its suffix names the format. ``None`` writes none.
        tokens: A folder for the tokens of each frame as [h, w, D] ``.npy``; needs an output, whose rows name the files.
        preview: A folder for a picture of each frame with its tiles, packs and tokens.
    """

    output: Path | None = None
    tokens: Path | None = None
    preview: Path | None = None


@dataclass(frozen=True)
class FrameDone:
    """A frame that was embedded: its rows, the whole first, and the pack that each of them ran in."""

    rows: tuple[Row, ...]
    packs: tuple[int, ...]


@dataclass
class Summary:
    """What a run did.

    Attributes:
        inputs: Files, or members of shards and rows of tables, that were looked at.
        frames, images, tokens, packs: Embedded by this run; a frame in tiles is several images.
        skipped: Inputs that an earlier run had recorded completely.
        left_out: Files of directories whose suffix is not known.
        written: Rows of the output.
        rejected: The frames that could not be embedded, each with its error.
        seconds: Taken to embed and to write the output; loading the engine and drawing previews are not counted.
    """

    inputs: int = 0
    frames: int = 0
    images: int = 0
    tokens: int = 0
    packs: int = 0
    skipped: int = 0
    left_out: int = 0
    written: int = 0
    rejected: list[Result] = field(default_factory=list)
    seconds: float = 0.0


def embed_files(
    engine: Engine,
    inputs: Sequence[Path],
    places: Places,
    *,
    resume: bool = False,
    on_frame: Callable[[FrameDone], None] = lambda frame: None,
    on_rejected: Callable[[Result], None] = lambda result: None,
) -> Summary:
    """Embed files, directories and patterns. A bad input is reported, and the others are embedded.

    Args:
        engine: Embeds the images.
        inputs: What `expand` takes.
        places: Where the results go.
        resume: Continue a run that was stopped, from its journal beside the output.
        on_frame: Called with each frame as soon as it is recorded.
        on_rejected: Called with each frame that cannot be embedded.

    Raises:
        UsageError: An input does not exist, the output's suffix names no format, or the journal is another run's.
        MissingExtraError: The output's format needs a package that is not installed.
        OutputError: Something cannot be written.
        EngineError: The engine fails on every image.
    """
    if places.tokens is not None and places.output is None:
        raise UsageError("--tokens writes files that the output lists", hint="name it with -o, for example -o out.npz")
    summary = Summary()
    left_out: list[Path] = []
    paths = list(dict.fromkeys(expand(inputs, left_out.append)))
    summary.left_out = len(left_out)
    run = _Run(engine, paths, places, summary, on_frame, on_rejected)
    start = time.perf_counter()
    if places.output is None:
        run.embed_to_nowhere()
    else:
        journal = Journal(places.output, output_width(engine), provenance(engine), key=str(places.tokens))
        with journal.open(resume=resume):
            run.embed_into(journal)
        summary.written = journal.finish(run.order)
    summary.seconds = time.perf_counter() - start
    run.previews.draw(engine, paths)
    return summary


def output_width(engine: Engine) -> int:
    """D, the length of an engine's vectors."""
    return next(int(spec.shape[-1]) for spec in engine.variant.outputs if spec.name == "pooled")


def provenance(engine: Engine) -> Provenance:
    """What an engine's vectors depend on besides the inputs."""
    manifest = engine.manifest
    preparation = manifest.config.model_dump_json(include={"image", "video"})
    return Provenance(manifest.model.digest, engine.variant.name, preparation, TOOL)


class _Run:
    """One call of `embed_files`."""

    def __init__(
        self,
        engine: Engine,
        paths: list[Path],
        places: Places,
        summary: Summary,
        on_frame: Callable[[FrameDone], None],
        on_rejected: Callable[[Result], None],
    ) -> None:
        self.order: dict[tuple[str, str], int] = {}
        self.previews = Previews(places.preview)
        self._engine = engine
        self._paths = paths
        self._tokens_folder = places.tokens
        self._summary = summary
        self._on_frame = on_frame
        self._on_rejected = on_rejected
        available = {spec.name for spec in engine.variant.outputs}
        wanted = ["pooled", "logits", *(["tokens"] if places.preview else [])]
        asked = ["tokens"] if places.tokens else []
        self._outputs = tuple(dict.fromkeys([*filter(available.__contains__, wanted), *asked]))

    def embed_into(self, journal: Journal) -> None:
        """Embed what the journal does not have, and record it frame by frame."""
        done = journal.done()
        digests: list[str] = []

        def pending() -> Iterator[Input]:
            for item in open_inputs(self._paths):
                digest = item.digest()
                self.order.setdefault((item.name, digest), len(self.order))
                before = done.get((item.name, digest), Done())
                if before.all:
                    self._summary.inputs += 1
                    self._summary.skipped += 1
                else:
                    digests.append(digest)
                    yield Input(item.name, item.source, before.frames)

        for images, joined in self._frames(pending()):
            digest = digests[joined.input]
            rows = self._rows(images, joined, digest)
            for row, image in zip(rows, images, strict=True):
                journal.append(row, image.outputs["pooled"])
            self._on_frame(FrameDone(tuple(rows), tuple(image.pack for image in images)))

    def embed_to_nowhere(self) -> None:
        """Embed everything, for its summary alone."""
        for images, joined in self._frames(open_inputs(self._paths)):
            rows = self._rows(images, joined, "")
            self._on_frame(FrameDone(tuple(rows), tuple(image.pack for image in images)))

    def _frames(self, inputs: Iterable[Input]) -> Iterator[tuple[list[Result], Result]]:
        """The results of each frame, and their join. Frames that failed are reported and left out."""
        summary = self._summary

        def counted() -> Iterator[Input]:
            for item in inputs:
                summary.inputs += 1
                yield item

        for images in by_frame(self._engine.stream(counted(), self._outputs)):
            joined = join(images)
            if joined.error is not None:
                summary.rejected.append(joined)
                self._on_rejected(joined)
                continue
            summary.frames += 1
            summary.images += len(images)
            summary.tokens += sum(image.grid_hw[0] * image.grid_hw[1] for image in images)
            summary.packs = max(summary.packs, *(image.pack + 1 for image in images))
            self.previews.note(images, joined)
            yield images, joined

    def _rows(self, images: Sequence[Result], joined: Result, digest: str) -> list[Row]:
        logits = joined.outputs.get("logits")
        head = self._engine.manifest.head
        best = next(iter(rank(logits, head, 1)), None) if logits is not None and head is not None else None
        tokens = self._write_tokens(joined, digest)
        return [Row.of(image, digest, best, tokens) for image in images]

    def _write_tokens(self, joined: Result, digest: str) -> str:
        """The name of the file of a frame's tokens, which is written before the journal records the frame."""
        if self._tokens_folder is None:
            return ""
        path = self._tokens_folder / f"{digest[:16]}-{joined.frame:05}.npy"
        with new_file(path) as partial, partial.open("wb") as stream:
            np.save(stream, joined.outputs["tokens"])
        return path.name
