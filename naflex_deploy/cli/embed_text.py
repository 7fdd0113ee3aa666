"""naflex-deploy embed --text: embed texts in the space of the image vectors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from naflex_deploy.cli.terminal import out, print_json
from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.files import new_file, reserved
from naflex_deploy.core.locks import Lock
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.text_encoder import Float, TextEncoder

FORMATS = (".npz", ".jsonl")


def embed_texts(bundle: Path, texts: Sequence[str], output: Path | None, *, force: bool, as_json: bool) -> None:
    """Embed texts, and write them with their vectors.

    Raises:
        UsageError: The bundle has no text tower, or the format of the output is unknown.
        OutputError: The output exists, cannot be written, or is being written by another process.
    """
    if output is not None and output.suffix not in FORMATS:
        raise UsageError(
            f"-o {output}: expected a name that ends in {' or '.join(FORMATS)}", hint="for example texts.npz"
        )
    with reserved(output, force=force) if output is not None else nullcontext() as lock:
        vectors = TextEncoder(Bundle.open(bundle)).embed(texts)
        if lock is not None:
            _write(lock, texts, vectors)
    if as_json:
        print_json("embed", texts=list(texts), width=vectors.shape[1], output=str(output) if output else None)
        return
    out.print(f"{len(texts)} texts embedded")
    if output is not None:
        out.print(f"[bold green]wrote[/] {output}: {len(vectors)} vectors of {vectors.shape[1]} float32")


def _write(lock: Lock, texts: Sequence[str], vectors: Float) -> None:
    with new_file(lock.path, lock) as partial, partial.open("wb") as stream:
        if lock.path.suffix == ".npz":
            np.savez(stream, embeddings=vectors, texts=np.array(texts, dtype=np.str_))
            return
        for text, vector in zip(texts, vectors, strict=True):
            line = json.dumps({"text": text, "embedding": vector.tolist()}, ensure_ascii=False)
            stream.write(f"{line}\n".encode())
