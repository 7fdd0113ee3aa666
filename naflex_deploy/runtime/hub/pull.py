"""Bring a bundle from the hub into a directory whose files were checked before any of them is opened."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from naflex_deploy.core.files import new_directory, refuse_existing
from naflex_deploy.core.locks import waiting
from naflex_deploy.core.manifest import FILE_NAME
from naflex_deploy.runtime.bundle.bundle import Bundle
from naflex_deploy.runtime.bundle.signature import SIGNATURE, verify_signature
from naflex_deploy.runtime.hub.repository import NotThereError, Repository, explained


def cached(repository: Repository, variant: str | None = None, public_key: Path | None = None) -> Path:
    """The directory of a bundle below the user's cache, downloaded if it is not there yet.

    It holds the files of one variant and of the text tower, or, to check a signature, all. The directory is that of a
    commit, so a revision that moves on gives another one. Without a network, what was downloaded before is taken.

    Args:
        repository: Where the bundle is.
        variant: Name of the variant. Default: the first one that this machine can run.
        public_key: Key that must have signed the bundle.

    Raises:
        UsageError: The hub cannot be read, or has no such bundle.
        BundleError: A file is damaged, or the bundle is not signed with the key.
        IncompatibleError: No variant can run here.
    """
    manifest = _file(repository, FILE_NAME)
    pinned = Repository(repository.name, manifest.parent.name)
    remote = Bundle.open(manifest.parent)
    chosen = remote.choose(variant)
    text = remote.manifest.text.files if remote.manifest.text else []
    names = set(remote.manifest.files) if public_key else {*remote.files_of(chosen), *text}
    folder = "all" if public_key else chosen.name
    target = _cache() / repository.name.replace("/", "--") / manifest.parent.name / folder
    if not target.exists():
        with waiting(lambda line: None), new_directory(target, force=True) as new:
            _fill(new, pinned, names, public_key)
    elif public_key:
        verify_signature(target, public_key)
    return target


def pull(repository: Repository, output: Path, *, public_key: Path | None = None, force: bool = False) -> Bundle:
    """Copy a bundle from the hub into a directory, which appears when everything in it was checked.

    Args:
        repository, public_key: See `cached`.
        output: The directory.
        force: Replace an existing bundle.

    Raises:
        UsageError: The hub cannot be read, or has no such bundle.
        BundleError: A file is damaged, or the bundle is not signed with the key.
        OutputError: ``output`` exists or cannot be written.
    """
    refuse_existing(output, force=force, made=FILE_NAME)
    manifest = _file(repository, FILE_NAME)
    pinned = Repository(repository.name, manifest.parent.name)
    with new_directory(output, force=force, made=FILE_NAME) as folder:
        _fill(folder, pinned, Bundle.open(manifest.parent).manifest.files, public_key)
    return Bundle.open(output)


def _fill(folder: Path, repository: Repository, names: Iterable[str], public_key: Path | None) -> None:
    """Link files of the hub's cache into a folder, or copy them where the two are on different disks; check them."""
    names = list(names)
    _link(_file(repository, FILE_NAME), folder / FILE_NAME)
    for name in names:
        _link(_file(repository, name), folder / name)
    with suppress(NotThereError):
        _link(_file(repository, SIGNATURE), folder / SIGNATURE)
    if public_key:
        verify_signature(folder, public_key)
    Bundle.open(folder).check(names)


def _link(source: Path, target: Path) -> None:
    """Link a file, or what a link leads to, under another name, or copy it to another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _file(repository: Repository, name: str) -> Path:
    """A file in the hub's cache, in a folder named after the commit. Without a network, it is the one of last time."""
    with explained(repository, "read"):
        from huggingface_hub import errors, hf_hub_download

        get = partial(hf_hub_download, repository.name, name, revision=repository.revision)
        try:
            return Path(get())
        except errors.HfHubHTTPError:
            raise
        except Exception:  # of its HTTP library
            with suppress(errors.LocalEntryNotFoundError):
                return Path(get(local_files_only=True))
            raise


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "naflex-deploy" / "bundles"
