"""One run: inputs are expanded, embedded frame by frame, recorded in a journal and written to the output at the end.

from naflex_deploy.runtime.embedding.run import embed_files
from naflex_deploy.runtime.embedding.summary import Places
summary = embed_files(engine, [Path("scans")], Places(output=Path("scans.npz")), resume=True)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from naflex_deploy.core.errors import ImageError, OutputError, UsageError
from naflex_deploy.core.files import refuse_existing
from naflex_deploy.core.locks import Lock, locked
from naflex_deploy.core.progress import Counts, OnProgress, unseen
from naflex_deploy.runtime.embedding.complete import refuse_other
from naflex_deploy.runtime.embedding.contents import Content, read_once
from naflex_deploy.runtime.embedding.key import key_of, provenance
from naflex_deploy.runtime.embedding.previews import Previews
from naflex_deploy.runtime.embedding.summary import FrameDone, Places, Summary
from naflex_deploy.runtime.embedding.tokens import Tokens
from naflex_deploy.runtime.engine import Engine
from naflex_deploy.runtime.images.inputs import Input, expand, number_of_inputs, open_inputs
from naflex_deploy.runtime.results.classes import best_class
from naflex_deploy.runtime.results.journal import Done, Journal
from naflex_deploy.runtime.results.result import Result, by_frame, join
from naflex_deploy.runtime.results.table import Row
from naflex_deploy.runtime.results.writers import find_format


def embed_files(
    engine: Engine,
    inputs: Sequence[Path],
    places: Places,
    *,
    resume: bool = False,
    force: bool = False,
    on_frame: Callable[[FrameDone], None] = lambda frame: None,
    on_rejected: Callable[[Result], None] = lambda result: None,
    on_progress: OnProgress = unseen,
) -> Summary:
    """Embed files, directories and patterns. A bad input is reported, and the others are embedded.

    Args:
        engine: Embeds the images.
        inputs: What `expand` takes.
        places: Where the results go.
        resume: Continue a run that was stopped, from its journal beside the output; one that is complete, with the same
            key and inputs, is left as it is.
        force: Replace an output that is there.
        on_frame: Called with each frame as soon as it is recorded.
        on_rejected: Called with each frame that cannot be embedded.
        on_progress: Called with the number of inputs that are done, at the start and after each frame.

    Raises:
        UsageError: An input does not exist, the output's suffix names no format, or what is resumed was made with
            something else; names what differs.
        MissingExtraError: The output's format needs a package that is not installed.
        LockedError: Another run writes one of the places; names it.
        OutputError: The output exists, or something cannot be written.
        EngineError: The engine fails on every image.
    """
    if places.tokens is not None and places.output is None:
        raise UsageError("--tokens writes files that the output lists", hint="name it with -o, for example -o out.npz")
    if places.output is not None:
        find_format(places.output)
    _refuse_among_inputs(places.preview, inputs)
    left_out: list[Path] = []
    paths = list(dict.fromkeys(expand(inputs, left_out.append)))
    summary = Summary(left_out=len(left_out))
    start = time.perf_counter()
    with ExitStack() as held:
        previews = Previews(places.preview, _folder_lock(held, places.preview, "previews"))
        run = _Run(engine, paths, summary, previews, on_frame, on_rejected, on_progress)
        if places.output is None:
            run.embed_to_nowhere()
            previews.draw(engine, paths)
        else:
            lock = held.enter_context(locked(places.output))
            key = key_of(engine, places.tokens)
            tokens = Tokens(places.tokens, _folder_lock(held, places.tokens, "tokens"), key)
            journal = Journal(lock, output_width(engine), key, tokens.read)
            refuse_existing(places.output, force=force or resume, made=find_format(places.output).made)
            if places.output.exists() and not force:
                refuse_other(places.output, key, paths)
                journal.remove()  # a run that was killed after its output was written left it
                summary.complete = True
                return summary
            run.record(journal, tokens, resume)
            previews.draw(engine, paths)  # first, as a complete output is not looked at again
            tokens.sync()
            summary.written = journal.finish(run.order, provenance(engine, key, run.order))
        summary.seconds = time.perf_counter() - start
    return summary


def _refuse_among_inputs(preview: Path | None, inputs: Iterable[Path]) -> None:
    """Refuse to draw pictures into a directory of inputs, of which a run that is resumed would take them."""
    for path in inputs:
        if preview is not None and path.is_dir() and preview.resolve().is_relative_to(path.resolve()):
            raise UsageError(
                f"--preview {preview} lies in {path}, whose images are embedded", hint="choose a directory beside it"
            )


def _folder_lock(held: ExitStack, folder: Path | None, name: str) -> Lock | None:
    """The lock of a folder that a run adds files to, so that no two runs write files of one name."""
    return held.enter_context(locked(folder / name)) if folder is not None else None


def output_width(engine: Engine) -> int:
    """D, the length of an engine's vectors.

    Raises:
        UsageError: The bundle has none.
    """
    found = {spec.name: int(spec.shape[-1]) for spec in engine.variant.outputs}
    if "pooled" not in found:
        raise UsageError(
            f"the bundle has no output 'pooled', which is what embed writes; it has {list(found)}",
            hint="build it with 'pooled' in outputs of the profile, or write tokens for a language model with --for",
        )
    return found["pooled"]


class _Run:
    """One call of `embed_files`."""

    def __init__(
        self,
        engine: Engine,
        paths: list[Path],
        summary: Summary,
        previews: Previews,
        on_frame: Callable[[FrameDone], None],
        on_rejected: Callable[[Result], None],
        on_progress: OnProgress,
    ) -> None:
        self.order: dict[tuple[str, str], int] = {}
        self._engine = engine
        self._paths = paths
        self._summary = summary
        self._previews = previews
        self._on_frame = on_frame
        self._on_rejected = on_rejected
        self._on_progress = on_progress
        self._total = number_of_inputs(paths)
        self._finished = 0
        available = {spec.name for spec in engine.variant.outputs}
        wanted = ["pooled", "logits", *(["tokens"] if previews else [])]
        self._outputs = tuple(filter(available.__contains__, wanted))

    def record(self, journal: Journal, tokens: Tokens, resume: bool) -> None:
        """Embed what the journal does not have, and record it frame by frame.

        Raises:
            OutputError: Something cannot be written; says how to continue.
        """
        try:
            with journal.open(resume=resume):
                self._summary.damaged = journal.dropped
                self._record(journal, tokens)
        except OutputError as error:
            if journal.rows:
                error.hint += "; then continue with --resume"
            raise

    def _record(self, journal: Journal, tokens: Tokens) -> None:
        done = journal.done()
        contents: list[Content] = []

        def pending() -> Iterator[Input]:
            for number, item in enumerate(self._inputs()):
                content = read_once(item)
                key = (item.name, content.digest)
                self.order.setdefault(key, len(self.order))
                before = self._previews.drawn(number, done.get(key, Done()))
                if before.all:
                    self._summary.inputs += 1
                    self._summary.skipped += 1
                else:
                    contents.append(content.forget())
                    yield replace(content.input, done=before.frames)

        outputs = tuple(dict.fromkeys([*self._outputs, *(["tokens"] if tokens else [])]))
        for images, joined in self._frames(pending(), outputs, lambda number: contents[number].check()):
            digest = contents[joined.input].digest
            name, checksum = tokens.write(joined, digest)
            rows = self._rows(images, joined, digest, name)
            for row, image in zip(rows, images, strict=True):
                journal.append(row, image.outputs["pooled"], checksum)
            self._on_frame(FrameDone(rows, tuple(image.pack for image in images), joined.warnings))

    def _inputs(self) -> Iterator[Input]:
        return open_inputs(self._paths, self._count_left_out, self._engine.manifest.config.limits)

    def _count_left_out(self, member: Path) -> None:
        self._summary.left_out += 1

    def embed_to_nowhere(self) -> None:
        """Embed everything, for its summary alone."""
        inputs = self._inputs()
        for images, joined in self._frames(inputs, self._outputs, lambda number: None):
            rows = self._rows(images, joined, "", "")
            self._on_frame(FrameDone(rows, tuple(image.pack for image in images), joined.warnings))

    def _frames(
        self, inputs: Iterable[Input], outputs: Sequence[str], check: Callable[[int], None]
    ) -> Iterator[tuple[list[Result], Result]]:
        """The results of each frame, and their join. Frames that failed are reported and left out.

        Args:
            inputs: To be embedded.
            outputs: Names of those wanted.
            check: Raises an error where an input, by its number, is no longer what it was.
        """
        summary = self._summary

        def counted() -> Iterator[Input]:
            for item in inputs:
                summary.inputs += 1
                yield item

        self._tell()
        for images in by_frame(self._engine.stream(counted(), outputs)):
            joined = join(images)
            self._finished += joined.last
            try:
                check(joined.input)
            except ImageError as error:
                joined = replace(joined, error=error)
            if joined.error is not None:
                summary.rejected.append(joined)
                self._on_rejected(joined)
                self._tell()
                continue
            summary.frames += 1
            summary.images += len(images)
            summary.tokens += sum(image.grid_hw[0] * image.grid_hw[1] for image in images)
            summary.packs = max(summary.packs, *(image.pack + 1 for image in images))
            self._previews.note(images, joined)
            yield images, joined
            self._tell()

    def _tell(self) -> None:
        done = self._summary
        counts = Counts(done.skipped + self._finished, self._total, done.skipped, done.images, done.tokens)
        self._on_progress(counts)

    def _rows(self, images: Sequence[Result], joined: Result, digest: str, tokens: str) -> tuple[Row, ...]:
        best = best_class(joined.outputs.get("logits"), self._engine.manifest.head)
        return tuple(Row.of(image, digest, best, tokens) for image in images)
