"""Repositories on the hub: only the files that a reader reads are downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from naflex_deploy.compiler.checkpoints.files.choice import CONFIG, SETTINGS, TEXT_SETTINGS, choose_files, every
from naflex_deploy.compiler.checkpoints.files.load import load_json
from naflex_deploy.core.errors import CheckpointError, MissingExtraError, NoCheckpointError


def download(
    name: str,
    *,
    texts: bool = False,
    wanted_of: Callable[[Mapping[str, Any]], Callable[[str], bool]] = lambda config: every,
) -> Path:
    """A directory with the settings and the weights of ``ORG/NAME[@revision]``.

    Files that are in the local cache are not downloaded again; without a network, what the cache holds is taken.

    Args:
        name: The repository, and its branch, tag or commit.
        texts: Take the tokenizer's files, too.
        wanted_of: Says by the model's config which tensors are read; shards without any are not downloaded.

    Raises:
        CheckpointError: The hub cannot be reached, or has no such model, or it is unclear which files are the model.
    """
    try:
        from huggingface_hub import HfApi, hf_hub_download, snapshot_download
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
    except ImportError:
        raise MissingExtraError("huggingface_hub", "build") from None
    repository, _, stated = name.partition("@")
    revision, source = stated or "main", f"hf:{name}"

    def get(file: str) -> Path:
        return Path(hf_hub_download(repository, file, revision=revision))

    def read_json(file: str) -> Mapping[str, Any]:
        return load_json(get(file), source)

    try:
        info = HfApi().model_info(repository, revision=revision)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise _failed(source, error) from None
    except Exception as error:  # of its HTTP library, too
        try:
            return Path(snapshot_download(repository, revision=revision, local_files_only=True))
        except Exception:
            raise _failed(source, error) from None
    names = {file.rfilename for file in info.siblings or () if "/" not in file.rfilename}
    if CONFIG not in names:
        raise NoCheckpointError(f"{source}: no {CONFIG} there", hint="give a model of transformers or timm")
    try:
        config = read_json(CONFIG)
        files = choose_files(names, read_json, config, source, wanted_of(config))
        settings = [file for file in (*SETTINGS, *(TEXT_SETTINGS if texts else ())) if file in names]
        for file in (*settings, *files.weights):
            get(file)
        return get(CONFIG).parent
    except CheckpointError:
        raise
    except Exception as error:
        raise _failed(source, error) from None


def _failed(source: str, error: Exception) -> NoCheckpointError:
    reason = next(iter(str(error).splitlines()), "no reason given")
    return NoCheckpointError(
        f"{source} could not be downloaded: {type(error).__name__}: {reason}",
        hint="check the name, the network and HF_TOKEN, or download it elsewhere and give the directory",
    )
