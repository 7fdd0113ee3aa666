"""Put a bundle on the hub, in one commit."""

from __future__ import annotations

from pathlib import Path

from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.manifest import FILE_NAME
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.bundle.signature import SIGNATURE
from naflex_deploy.runtime.hub.card import card
from naflex_deploy.runtime.hub.repository import Repository, explained

CARD = "README.md"
OWN = (CARD, ".gitattributes")
"""Files of a repository that belong to no bundle."""


def push(path: Path, repository: Repository, *, private: bool = False) -> str:
    """Check a bundle, and make a repository hold it and its model card, and nothing else.

    The repository is made where there is none. The commit fails where the repository changes meanwhile.

    Args:
        path: Directory of the bundle.
        repository: Where to put it; its revision is the branch.
        private: Make a new repository private.

    Returns:
        The new commit.

    Raises:
        BundleError: A file of the bundle is missing or changed.
        UsageError: The repository cannot be written, or holds something else than a bundle.
    """
    bundle = Bundle.open(path)
    bundle.check(bundle.manifest.files)
    with explained(repository, "written"):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi()
        api.create_repo(repository.name, private=private, exist_ok=True)
        info = api.model_info(repository.name, revision=repository.revision)
        there = {sibling.rfilename for sibling in info.siblings or ()}
        if there - set(OWN) and FILE_NAME not in there:
            raise UsageError(
                f"{repository} holds {len(there)} files, but no bundle", hint="push to a repository of its own"
            )
        signed = (path / SIGNATURE).is_file()
        names = [FILE_NAME, *bundle.manifest.files, *([SIGNATURE] if signed else [])]
        text = card(bundle.manifest, repository.name, signed=signed)
        gone = sorted(there - {*names, *OWN})
        bundle.refuse_changed(bundle.manifest.files)
        commit = api.create_commit(
            repository.name,
            operations=[
                *(CommitOperationAdd(name, path / name) for name in names),
                CommitOperationAdd(CARD, text.encode()),
                *(CommitOperationDelete(name) for name in gone),
            ],
            commit_message=f"Bundle of {bundle.manifest.model.source} for {bundle.manifest.config.name}",
            revision=repository.revision,
            parent_commit=info.sha,
        )
    return str(commit.oid)
