"""Names of repositories on the hub, and what its errors mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from naflex_deploy.core.errors import NaflexError, UsageError, needs_extra

PREFIX = "hf:"
_NAME = re.compile(r"(?:hf:)?([\w-][\w.-]*/[\w-][\w.-]*)(?:@([^@\s]+))?")


class NotThereError(UsageError):
    """A repository has no file of this name."""


@dataclass(frozen=True)
class Repository:
    """A repository, and the branch, tag or commit that is meant; ``None`` for its default branch."""

    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Repository:
        """``hf:ORG/NAME[@REVISION]``; the prefix may be left out.

        Raises:
            UsageError: It has another form.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise UsageError(f"expected hf:ORG/NAME or hf:ORG/NAME@REVISION, found '{text}'")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}" + (f"@{self.revision}" if self.revision else "")


@contextmanager
def explained(repository: Repository, doing: str) -> Iterator[None]:
    """Turn errors of the hub and of the network into one that says what to do.

    Args:
        repository: What the block reads or writes.
        doing: ``read`` or ``written``, for the message.

    Raises:
        MissingExtraError: ``huggingface_hub`` is not installed.
        UsageError: The block failed; a `NotThereError` where a file is missing.
    """
    with needs_extra("hub"):
        from huggingface_hub import errors
    hints = {
        errors.RevisionNotFoundError: f"the repository has no revision '{repository.revision}'",
        errors.GatedRepoError: "ask for access on its page, and log in with `hf auth login` or HF_TOKEN",
        errors.RepositoryNotFoundError: "check the name; a private one needs `hf auth login` or HF_TOKEN",
        errors.EntryNotFoundError: "it holds no bundle: push one with `naflex-deploy push`",
        errors.LocalTokenNotFoundError: "log in with `hf auth login`, or set HF_TOKEN",
        errors.LocalEntryNotFoundError: "check the network; it is not in the cache",
    }
    statuses = {
        401: "log in with `hf auth login`, or set HF_TOKEN",
        403: "your token has no right to write there: check its permissions and your role in the organisation",
        412: "somebody else changed it meanwhile: look at the change, and run the command again",
    }
    try:
        yield
    except NaflexError:
        raise
    except Exception as error:  # of its HTTP library, too
        status = getattr(getattr(error, "response", None), "status_code", 0)
        known = next((hint for kind, hint in hints.items() if isinstance(error, kind)), "check the network")
        reason = next(iter(str(error).splitlines()), "no reason given")
        kind = NotThereError if isinstance(error, errors.EntryNotFoundError) else UsageError
        raise kind(
            f"{repository} could not be {doing}: {type(error).__name__}: {reason}", hint=statuses.get(status, known)
        ) from None
