"""Readers: each turns one kind of checkpoint into a `Checkpoint`. `read` picks the reader by the form of SPEC."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path

from torch import nn

from naflex_deploy.build.checkpoints.checkpoint import Checkpoint
from naflex_deploy.core.errors import CheckpointError, nearest

# prefix of SPEC → module:function, imported when used
READERS = {
    "hf": "naflex_deploy.build.checkpoints.hf:read_hub",
    "random": "naflex_deploy.build.checkpoints.random_weights:read_random",
}


def read(model: str | Path | nn.Module) -> Checkpoint:
    """Read a model.

    Args:
        model: ``demo``; a local Hugging Face directory; ``hf:ORG/NAME``; ``random:NAME``; or a torch module.

    Raises:
        CheckpointError: Nothing readable there, or it is no NaFlex model; names what is wrong.
    """
    if isinstance(model, nn.Module):
        reader = _reader("naflex_deploy.build.checkpoints.hf:read_module")
        return reader(model)
    spec = str(model)
    directory = _reader("naflex_deploy.build.checkpoints.hf:read_directory")
    if spec == "demo":
        with as_file(files("naflex_deploy").joinpath("demo/checkpoint")) as path:
            return directory(path, source="demo")
    prefix, separator, rest = spec.partition(":")
    if separator and prefix in READERS:
        return _reader(READERS[prefix])(rest)
    if Path(spec).is_dir():
        return directory(Path(spec))
    known = ["demo", *(f"{name}:…" for name in READERS)]
    raise CheckpointError(f"no model at '{spec}'", hint=f"a local directory, or {nearest(spec, known)}")


def _reader(location: str) -> Callable[..., Checkpoint]:
    module, _, function = location.partition(":")
    reader: Callable[..., Checkpoint] = getattr(import_module(module), function)
    return reader
