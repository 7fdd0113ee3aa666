"""Embed many images on Ray Data: files in, Parquet out, one row per input. Runs can be resumed.

    from naflex_deploy.serving.ray.data import embed_to_parquet
    embed_to_parquet(paths, "build/doc-ocr", "vectors", workers=8)

The inputs are split into shards in their order. The vectors and the rejected images of a shard are two Parquet files,
which appear whole or not at all. A run that is started again embeds the missing shards. If a worker is killed, only
the shard that it was working on is lost, and Ray gives it to another worker.

    plan.json     the inputs, the model and the size of a shard, written by the driver
    key.json      what decides the vectors, written by the first worker; another engine adds no shard to them
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from naflex_deploy.core.errors import OutputError, explain_os_errors, needs_extra
from naflex_deploy.core.files import new_file
from naflex_deploy.core.locks import Lock, locked
from naflex_deploy.core.manifest import Variant
from naflex_deploy.runtime.backends import open_session
from naflex_deploy.runtime.backends.session import Session
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.embedding.contents import read_once
from naflex_deploy.runtime.embedding.key import key_of, provenance
from naflex_deploy.runtime.embedding.run import output_width
from naflex_deploy.runtime.images.inputs import Input
from naflex_deploy.runtime.loading import load_engine
from naflex_deploy.runtime.results.classes import best_class
from naflex_deploy.runtime.results.key import Key
from naflex_deploy.runtime.results.result import by_frame, join
from naflex_deploy.runtime.results.table import Row, Table
from naflex_deploy.runtime.results.vectors import Float
from naflex_deploy.runtime.results.writers import parquet

Batch = dict[str, Any]

_PLAN, _KEY = "plan.json", "key.json"
_SCHEMA = 4
_OTHER = "choose another directory"


@dataclass(frozen=True)
class Totals:
    """Numbers of embedded and rejected rows of this run, and of its shards and those done before."""

    embedded: int
    rejected: int
    shards: int
    shards_before: int


class EmbedImages:
    """For ``Dataset.map_batches``: adds the columns ``embedding`` [D] float32 and ``error`` to every row.

    A row whose image is bad has an ``error`` and an embedding of zeros. Only the first frame of an input is embedded.

    Args:
        bundle: Path of the bundle, which every machine can read.
        column: Column with the images: paths, or encoded images as bytes.
        threads: Number of threads of an engine on a CPU; 1 where there is one worker per core.
    """

    def __init__(self, bundle: str, column: str = "path", threads: int = 1) -> None:
        self.engine = load_engine(Path(bundle), session=lambda path, variant: _session(path, variant, threads))
        self.width = output_width(self.engine)
        self._column = column

    @property
    def key(self) -> Key:
        """What decides the vectors."""
        return key_of(self.engine, None)

    def __call__(self, batch: Batch) -> Batch:
        sources = list(batch[self._column])
        vectors = np.zeros((len(sources), self.width), np.float32)
        errors = [""] * len(sources)
        for result in map(join, by_frame(self.engine.stream(sources))):
            if result.error is not None:
                errors[result.input] = str(result.error)
            elif result.frame == 0:
                vectors[result.input] = result.outputs["pooled"]
        return {**batch, "embedding": vectors, "error": np.array(errors, object)}

    def rows(self, paths: Sequence[str]) -> tuple[dict[int, tuple[Row, Float]], dict[int, str]]:
        """The row and vector [D] of the first frame of each file, and the errors of those that are bad, by index."""
        digests: list[str] = []

        def inputs() -> Iterator[Input]:
            for path in paths:
                content = read_once(Input(path, Path(path)))
                digests.append(content.digest)
                yield content.input

        available = {spec.name for spec in self.engine.variant.outputs}
        rows: dict[int, tuple[Row, Float]] = {}
        errors: dict[int, str] = {}
        for result in map(join, by_frame(self.engine.stream(inputs(), sorted(available & {"pooled", "logits"})))):
            if result.error is not None:
                errors[result.input] = str(result.error)
            elif result.frame == 0:
                best = best_class(result.outputs.get("logits"), self.engine.manifest.head)
                rows[result.input] = Row.of(result, digests[result.input], best, ""), result.outputs["pooled"]
        return rows, errors


class WriteShards:
    """For ``Dataset.map_batches`` over shards: embeds each shard and writes its two Parquet files.

    Nothing is written if the directory holds vectors of an engine that would compute others; ``differ`` says why.
    """

    def __init__(self, bundle: str, output: str, threads: int = 1) -> None:
        self._embed = EmbedImages(bundle, threads=threads)
        self._output = Path(output)

    def __call__(self, batch: Batch) -> Batch:
        # Each worker chooses a variant that its machine runs, so that two of them can differ.
        differ = self._embed.key.differences(_agreed(self._output, self._embed.key))
        counts = [
            (0, 0) if differ else self._write(int(number), list(paths))
            for number, paths in zip(*_columns(batch), strict=True)
        ]
        embedded, rejected = zip(*counts, strict=True)
        differ = ["; ".join(differ)] * len(counts)
        return {
            "shard": batch["shard"],
            "embedded": np.array(embedded),
            "rejected": np.array(rejected),
            "differ": np.array(differ, object),
        }

    def _write(self, number: int, paths: list[str]) -> tuple[int, int]:
        rows, errors = self._embed.rows(paths)
        rejected = {"path": [paths[index] for index in sorted(errors)]}
        rejected["error"] = [errors[index] for index in sorted(errors)]
        with new_file(self._output / f"rejected-{number:06}.parquet") as partial:
            _write_rejected(partial, rejected)
        kept = [rows[index] for index in sorted(rows) if index not in errors]
        vectors = np.array([vector for _, vector in kept], np.float32).reshape(len(kept), self._embed.width)
        origin = provenance(self._embed.engine, self._embed.key, [(row.path, row.digest) for row, _ in kept])
        # This file comes last, because it marks the shard as complete.
        with new_file(_part(self._output, number)) as partial:
            parquet.write(partial, Table([row for row, _ in kept], vectors, range(len(kept)), origin))
        return len(kept), len(errors)


def embed_to_parquet(
    inputs: Sequence[str | Path],
    bundle: str | Path,
    output: str | Path,
    *,
    shard: int = 4096,
    workers: int = 2,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> Totals:
    """Embed files on a Ray cluster. Call it again to resume a run that was interrupted.

    Args:
        inputs: Paths that every machine can read.
        bundle: Path of the bundle, which every machine can read.
        output: Directory of ``part-*.parquet`` with the columns that ``embed`` writes, and ``rejected-*.parquet``.
        shard: Number of inputs per shard, which is the unit of resuming.
        workers: Number of workers, each with an engine.
        cpus, gpus: CPU cores and GPUs of each worker.

    Raises:
        LockedError: Another driver writes to the directory.
        BundleError: There is no bundle, or it is damaged.
        OutputError: The directory holds the output of other inputs, another model, another shard size or an engine that
            computes other vectors, or its records are damaged. Also if the engines of the workers differ; the shards of
            those that agree with the first one are kept.
        MissingExtraError: Ray is not installed.
    """
    data = _imported("ray.data")
    target, paths = Path(output), [str(path) for path in inputs]
    with locked(target / _PLAN) as lock:  # two drivers of one output would do every shard twice
        _check_plan(lock, paths, Bundle.open(Path(bundle)).manifest.model.digest, shard)
        shards: list[dict[str, Any]] = [
            {"shard": n, "paths": paths[i : i + shard]} for n, i in enumerate(range(0, len(paths), shard))
        ]
        missing = [item for item in shards if not _part(target, item["shard"]).exists()]
        counts: list[dict[str, Any]] = []
        if missing:
            done = data.from_items(missing, override_num_blocks=len(missing)).map_batches(
                WriteShards,
                fn_constructor_args=(str(Path(bundle).resolve()), str(target.resolve()), max(1, int(cpus))),
                batch_size=1,
                compute=data.ActorPoolStrategy(size=min(workers, len(missing))),
                num_cpus=cpus,
                num_gpus=gpus,
            )
            counts = done.take_all()
        if differ := sorted({row["differ"] for row in counts} - {""}):
            raise OutputError(
                f"{target} holds vectors of an engine that differs from that of a worker: {differ[0]}",
                hint=f"use workers with the same machine, bundle and versions, or {_OTHER}",
            )
    return Totals(
        embedded=sum(int(row["embedded"]) for row in counts),
        rejected=sum(int(row["rejected"]) for row in counts),
        shards=len(missing),
        shards_before=len(shards) - len(missing),
    )


def _imported(module: str) -> Any:
    with needs_extra("ray"):
        return import_module(module)


def _session(bundle: Path, variant: Variant, threads: int) -> Session:
    if variant.backend == "onnxruntime":
        from naflex_deploy.runtime.backends.onnxruntime.session import OnnxRuntimeSession

        return OnnxRuntimeSession(bundle / variant.model, variant, threads, weights=bundle)
    return open_session(bundle, variant)


def _columns(batch: Batch) -> tuple[npt.NDArray[np.int64], Sequence[Sequence[str]]]:
    return batch["shard"], batch["paths"]


def _part(output: Path, number: int) -> Path:
    return output / f"part-{number:06}.parquet"


def _check_plan(lock: Lock, paths: Sequence[str], model: str, shard: int) -> None:
    digest = hashlib.sha256("\n".join(paths).encode()).hexdigest()
    plan = {"schema": _SCHEMA, "inputs": digest, "count": len(paths), "model": model, "shard": shard}
    path = lock.path
    if any(path.parent.glob("part-*.parquet")) and not (path.exists() and path.with_name(_KEY).exists()):
        raise OutputError(f"{path.parent} does not say what its vectors were made with", hint=_OTHER)
    if path.with_name(_KEY).exists():
        _record(path.with_name(_KEY))  # Damage is told before any worker starts.
    if path.exists():
        found = _record(path)
        changed = [name for name in dict.fromkeys([*plan, *found]) if found.get(name) != plan.get(name)]
        if changed:
            raise OutputError(
                f"{path.parent} holds the output of another run: {', '.join(changed)} differ", hint=_OTHER
            )
        return
    with new_file(path, lock) as partial:
        partial.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")


def _agreed(output: Path, key: Key) -> dict[str, Any]:
    """The key of the vectors in a directory, which is that of the first worker to ask."""
    path = output / _KEY
    if not path.exists():
        own = output / f".{_KEY}.{uuid4().hex}"
        with explain_os_errors(path):
            try:
                own.write_text(json.dumps(key.parts, indent=2) + "\n", encoding="utf-8")
                with suppress(FileExistsError):  # Another worker was first.
                    os.link(own, path)
            finally:
                own.unlink(missing_ok=True)
    return _record(path)


def _record(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} is damaged: {error}", hint=_OTHER) from None
    if not isinstance(found, dict):
        raise OutputError(f"{path} is damaged: expected an object, found {type(found).__name__}", hint=_OTHER)
    return found


def _write_rejected(path: Path, columns: dict[str, list[str]]) -> None:
    pa, writer = _imported("pyarrow"), _imported("pyarrow.parquet")
    writer.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), path)
