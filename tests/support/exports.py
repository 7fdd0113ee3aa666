"""Exported graphs, each made once per test run, because an export takes seconds and many tests need the same one."""

from __future__ import annotations

import gc
import hashlib
import pickle
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor, nn

from naflex_deploy.compiler import export
from tests.support.shared import once

_REAL = export._export
_OF_ANY_MODULE = vars(nn.Module()).keys()


@contextmanager
def sharing() -> Iterator[None]:
    """Exports are shared among all tests."""
    with patch.object(export, "_export", _shared):
        yield


@contextmanager
def exporting_anew() -> Iterator[None]:
    """For tests of the export itself, which then always runs."""
    with patch.object(export, "_export", _REAL):
        yield


def _shared(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    first_axes: Sequence[Any],
    path: Path,
    *rows: Mapping[str, str],
) -> None:
    """Replaces `export._export`: copies the graph if this or another process exported the same before."""
    try:
        key = _digest(model, inputs, outputs, first_axes)
    except (pickle.PicklingError, AttributeError):  # It contains an anonymous function.
        _REAL(model, inputs, outputs, first_axes, path, *rows)
        return

    def make(folder: Path) -> None:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        gc.disable()  # The search for cycles in what torch keeps while it traces takes a fifth of the time.
        try:
            with patch.object(ONNXRegistry, "from_torchlib", _kept(ONNXRegistry.from_torchlib)):
                _REAL(model, inputs, outputs, first_axes, folder / path.name, *rows)
        finally:
            gc.enable()

    for file in once(key, make).iterdir():
        shutil.copyfile(file, path.with_name(file.name))


@cache
def _kept(registry: Callable[..., object]) -> staticmethod[..., object]:
    """torch reads the annotations of 540 functions anew for each export, which is an eighth of its time. Nothing here
    registers an operator of its own."""
    return staticmethod(cache(registry))


def _digest(model: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], first_axes: Sequence[Any]) -> str:
    """Digest of all that an export depends on: classes, attributes and tensors of the model, and inputs and outputs."""
    digest = hashlib.sha256()

    def add(*values: object) -> None:
        digest.update(pickle.dumps(values))

    add(list(outputs), [str(axis) for axis in first_axes])
    for name, module in model.named_modules():
        own = {attribute: vars(module)[attribute] for attribute in sorted(vars(module).keys() - _OF_ANY_MODULE)}
        add(name, type(module), own)
    for name, tensor in (*model.named_parameters(), *model.named_buffers(), *inputs.items()):
        add(name, tensor.dtype, tensor.shape, tensor.detach().numpy().tobytes())
    return digest.hexdigest()
