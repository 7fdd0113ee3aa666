"""The boundary between readers and a run: whatever a reader raises is the error of that one input.

Readers are libraries that are given damaged files, and raise nearly anything. What they say is passed on with its type,
so that a fault of theirs, or of ours, can be told from a damaged file.
"""

from __future__ import annotations

from naflex_deploy.core.errors import ImageError, MissingExtraError, NaflexError
from naflex_deploy.runtime.images.source import out_of_memory

LONGEST = 200


def as_input_error(name: str, error: Exception) -> NaflexError:
    """What a run reports about an input.

    Args:
        name: How messages call the input.
        error: What reading or preparing it raised; an error of ours stays as it is, because it names the input, except
            that a missing extra does not know which input needs it.
    """
    if isinstance(error, MissingExtraError):
        return MissingExtraError(error.module, error.extra, name)
    if isinstance(error, NaflexError):
        return error
    if isinstance(error, MemoryError):
        return out_of_memory(name)
    reason = " ".join(str(error).split())[:LONGEST]
    what = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return ImageError(
        f"{name}: cannot be read ({what})", hint="replace the file, or save it again with another program"
    )
