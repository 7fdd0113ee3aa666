"""One build's witness: whether there is an original to ask, what it is asked for, and the outcome."""

from __future__ import annotations

from pathlib import Path

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.witness import process
from naflex_deploy.compiler.witness.compare import compare
from naflex_deploy.compiler.witness.process import Answer, Asked
from naflex_deploy.compiler.witness.request import TEXTS, Request, sizes_for
from naflex_deploy.core.errors import GateError
from naflex_deploy.core.manifest import TextTower, Witness

DECLINED = "--no-witness"


def request_for(checkpoint: Checkpoint, outputs: tuple[str, ...], *, text: bool, wanted: bool) -> Request | str:
    """What the original of a checkpoint is asked for, or why it is not asked.

    Args:
        checkpoint: As it was read.
        outputs: Of the graph.
        text: Whether the bundle gets the text tower.
        wanted: Whether the user wants a witness.
    """
    original = checkpoint.original
    if not wanted:
        return DECLINED
    if original is None:
        return f"no library loads {checkpoint.source} as it is"
    needed = (original.library, *(("peft",) if original.lora else ()))
    for library in needed:
        if not process.installed(library):
            return f"{library} is not installed"
    return Request(
        library=original.library,
        path=str(original.path.resolve()),
        name=original.name,
        lora=str(original.lora.resolve()) if original.lora else "",
        outputs=outputs,
        classes=checkpoint.architecture.classes,
        labels=checkpoint.prompts,
        texts=TEXTS if text else (),
        patch_size=checkpoint.preprocessing.patch_size,
        sizes=sizes_for(checkpoint.preprocessing),
    )


def outcome(asked: Asked | None, reason: str, bundle: Path, checkpoint: Checkpoint, text: TextTower | None) -> Witness:
    """The outcome for a bundle whose portable graph has been exported.

    Args:
        asked: The process of the original, if there is one.
        reason: Why there is none.
        bundle: Holds the graph and, with ``text``, the text tower.
        checkpoint: As it was read.
        text: The text tower, if the bundle has one.

    Raises:
        GateError: The graph differs from the original.
    """
    answer = asked.wait() if asked else Answer(reason=reason)
    witness = compare(answer, bundle, checkpoint.preprocessing, checkpoint.architecture.prefix, text)
    if witness.status == "failed":
        raise GateError(
            f"{checkpoint.source} does not give what {witness.original} gives: {witness.reason}",
            hint="report it as an error of this tool; --no-witness builds the bundle nevertheless",
        )
    return witness
