"""naflex-deploy embed --text: embed texts in the space of the image vectors."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from naflex_deploy.cli.terminal import out, print_json
from naflex_deploy.core.files import refuse_existing, reserved
from naflex_deploy.core.version import TOOL
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.results.table import Provenance, Row, Table
from naflex_deploy.runtime.results.writers import find_format, paths_of, write_output
from naflex_deploy.runtime.text_encoder import TextEncoder


def embed_texts(bundle: Path, texts: Sequence[str], output: Path | None, *, force: bool, as_json: bool) -> None:
    """Embed texts, and write them with their vectors in the format of the output's suffix.

    Raises:
        UsageError: The bundle has no text tower, or the format of the output is unknown.
        MissingExtraError: The format needs a package that is not installed.
        OutputError: The output exists, cannot be written, or is being written by another process.
    """
    for beside in paths_of(output)[1:] if output is not None else ():
        refuse_existing(beside, force=force)
    made = find_format(output).made if output is not None else None
    with reserved(output, force=force, made=made) if output is not None else nullcontext() as lock:
        opened = Bundle.open(bundle)
        vectors = TextEncoder(opened).embed(texts)
        if lock is not None:
            provenance = Provenance(opened.manifest.model.digest, "text", "", TOOL)
            rows = [Row.of_text(text) for text in texts]
            write_output(lock, Table(rows, vectors, range(len(rows)), provenance))
    if as_json:
        print_json("embed", texts=list(texts), width=vectors.shape[1], output=str(output) if output else None)
        return
    out.print(f"{len(texts)} texts embedded")
    if output is not None:
        out.print(f"[bold green]wrote[/] {output}: {len(vectors)} vectors of {vectors.shape[1]} float32")
