"""One tree of errors. Each carries the process exit code and a hint that says what to do."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar


class NaflexError(Exception):
    """Base of every error this package raises on purpose.

    Args:
        message: What happened, what was expected, what was found. One line.
        hint: What to do about it. One line, may be empty.

    Attributes:
        code: Exit code of the command line (0 ok, 1 internal, 2 usage or config, 3 accuracy gate,
            4 incompatible artifact or hardware, 5 benchmark gate, 6 some inputs were rejected).
    """

    code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class UsageError(NaflexError):
    """The call, an option, a profile or a configuration value is wrong."""

    code = 2


class MissingExtraError(UsageError):
    """An optional dependency is not installed; the hint names the extra that installs it.

    Args:
        module: The module that is missing.
        extra: The extra that installs it.
        subject: What needs it, such as the name of a file.
    """

    def __init__(self, module: str, extra: str, subject: str = "this") -> None:
        super().__init__(
            f"{subject} needs the Python module '{module}', which is not installed",
            hint=f"pip install 'naflex-deploy[{extra}]'",
        )
        self.module, self.extra, self.subject = module, extra, subject

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return MissingExtraError, (self.module, self.extra, self.subject)


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Wrap the imports of modules that an extra installs.

    Raises:
        MissingExtraError: One of the modules is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or extra, extra) from None


class CheckpointError(UsageError):
    """A checkpoint cannot be read as a NaFlex model; the message names the tensor, key or option."""


class NoCheckpointError(CheckpointError):
    """There is no checkpoint at the path, or under the name, that was given."""


class OutputError(UsageError):
    """A result cannot be written: it exists already, the disk is full, the directory is read-only."""


class GateError(NaflexError):
    """A built variant misses its accuracy gate."""

    code = 3


class IncompatibleError(NaflexError):
    """A bundle, variant or engine does not fit this tool or this machine."""

    code = 4


class BundleError(IncompatibleError):
    """A bundle is damaged: a file is missing, changed or unreadable."""


class CalibrationError(IncompatibleError):
    """A calibration file is missing, damaged, or was made for something else."""


class BenchmarkError(NaflexError):
    """A benchmark misses its gate."""

    code = 5


class ImageError(NaflexError):
    """One input is not a usable image. The other inputs of the call are unaffected."""

    code = 6


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint naming the known name closest to ``name``, or all of them when none is close."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


FULL = (errno.ENOSPC, errno.EDQUOT)

_REASONS = {
    errno.ENOSPC: ("the disk is full", "free some space, or write to another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or write to another disk"),
    errno.EROFS: ("the file system is read-only", "write to another directory"),
    errno.EACCES: ("permission is denied", "write to a directory of yours"),
    errno.ENOTDIR: ("a part of the path is a file", "write to another directory"),
    errno.EEXIST: ("a part of the path is a file", "write to another directory"),
}


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `OutputError` that says why ``path`` cannot be written."""
    try:
        yield
    except NaflexError:
        raise
    except OSError as error:
        reason, hint = _REASONS.get(error.errno or 0, (error.strerror or str(error), "check the path and the disk"))
        raise OutputError(f"cannot write {path}: {reason}", hint=hint) from error
