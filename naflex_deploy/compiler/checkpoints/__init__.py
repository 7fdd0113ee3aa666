"""Readers: each turns one kind of checkpoint into a `Checkpoint`. `read` picks the reader by the form of SPEC."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module, resources
from pathlib import Path

from torch import nn

from naflex_deploy.compiler.checkpoints.checkpoint import Checkpoint
from naflex_deploy.compiler.checkpoints.tensors import unwrapped_module
from naflex_deploy.core.errors import CheckpointError, NoCheckpointError, nearest

# prefix of SPEC → module:function, imported when used
READERS = {
    "bv": "big_vision:read_big_vision",
    "hf": "directory:read_hub",
    "random": "random_weights:read_random",
    "timm": "timm.reader:read_timm",
}
MERGING = ("hf", "timm")
"""Readers that merge an adapter."""
# class of a module → module:function
MODULE_READERS = {
    "NaFlexVit": "timm.reader:read_module",
    "PackedNaFlexViT": "packed_module:read_module",
    "Siglip2ForImageClassification": "hf.reader:read_module",
    "Siglip2Model": "hf.reader:read_module",
    "Siglip2VisionModel": "hf.reader:read_module",
}


def read(model: str | Path | nn.Module, lora: Path | None = None) -> Checkpoint:
    """Read a model.

    Args:
        model: ``demo``; a directory as transformers or timm writes it; ``PREFIX:…`` with a prefix of `READERS`, whose
            module says what follows; or a torch module of a class in `MODULE_READERS`.
        lora: A directory as peft saves an adapter, to be merged into the weights of an ``hf`` or ``timm`` model.

    Raises:
        CheckpointError: Nothing readable there, or it is no NaFlex model; names what is wrong.
    """
    if lora is not None:
        return _read_merged(model, lora)
    if isinstance(model, nn.Module):
        return _read_module(model)
    spec = str(model)
    directory = _reader("directory:read_directory")
    if spec == "demo":
        with resources.as_file(resources.files("naflex_deploy").joinpath("demo/checkpoint")) as path:
            return directory(path, source="demo")
    prefix, separator, rest = spec.partition(":")
    if separator and prefix in READERS:
        return _reader(READERS[prefix])(rest)
    if Path(spec).is_dir():
        return directory(Path(spec))
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", spec):
        raise NoCheckpointError(
            f"no directory '{spec}' here", hint=f"for the model of that name on the Hugging Face hub, give hf:{spec}"
        )
    known = ["demo", *(f"{name}:…" for name in READERS)]
    raise NoCheckpointError(f"no model at '{spec}'", hint=f"a local directory, or {nearest(spec, known)}")


def _read_module(model: nn.Module) -> Checkpoint:
    """A module, or what torch.compile or data parallel wraps, of one of the classes known or derived from one."""
    model = unwrapped_module(model)
    for kind in type(model).__mro__:
        if kind.__name__ in MODULE_READERS:
            return _reader(MODULE_READERS[kind.__name__])(model)
    name = type(model).__name__
    raise CheckpointError(
        f"cannot read a module of class {name}, expected one of {', '.join(MODULE_READERS)}",
        hint="merge the adapter first, with merge_and_unload()" if name.startswith("Peft") else "pass the model itself",
    )


def _read_merged(model: str | Path | nn.Module, lora: Path) -> Checkpoint:
    if isinstance(model, nn.Module):
        raise CheckpointError("cannot merge an adapter into a module", hint="merge it with peft (merge_and_unload)")
    prefix, separator, rest = str(model).partition(":")
    if separator and prefix in MERGING:
        merged = _reader(READERS[prefix])(rest, lora=lora)
    elif Path(model).is_dir():
        merged = _reader("directory:read_directory")(Path(model), lora=lora)
    else:
        raise CheckpointError(
            f"cannot merge an adapter into '{model}'",
            hint=f"a local directory, {' or '.join(f'{m}:…' for m in MERGING)}",
        )
    return replace(merged, source=f"{merged.source} with {lora}")


def _reader(location: str) -> Callable[..., Checkpoint]:
    module, _, function = location.partition(":")
    reader: Callable[..., Checkpoint] = getattr(import_module(f"{__name__}.{module}"), function)
    return reader
