"""Run packs on engines. Each backend has a folder with a ``backend.py`` and a ``session.py``."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import cast

from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.errors import IncompatibleError
from naflex_deploy.core.machine import cpu_name, system_name
from naflex_deploy.core.manifest import Executed, Variant
from naflex_deploy.runtime.backends import cuda_device
from naflex_deploy.runtime.backends.backend import Backend
from naflex_deploy.runtime.backends.session import Session


@cache
def find(name: str) -> Backend:
    """The backend with a name from `FOLDERS`, made by ``BACKEND`` in its folder's ``backend.py``."""
    module = import_module(f"naflex_deploy.runtime.backends.{FOLDERS[name]}.backend")
    return cast(Backend, module.BACKEND(name))


def open_session(bundle: Path, variant: Variant) -> Session:
    """Load a variant's engine, whose files have been checked already.

    Raises:
        IncompatibleError: This machine cannot run the variant.
    """
    if variant.backend not in FOLDERS:
        raise IncompatibleError(
            f"variant '{variant.name}': {cannot_run(variant)}",
            hint="upgrade naflex-deploy, or build a variant with --backend onnxruntime",
        )
    return find(variant.backend).open(bundle, variant)


def cannot_run(variant: Variant) -> str | None:
    """The reason why this machine cannot run a variant, ``None`` where it can. Does not load the engine."""
    if variant.backend not in FOLDERS:
        return f"this version has no backend '{variant.backend}'"
    return find(variant.backend).refuses(variant)


def executed_by(name: str) -> Executed:
    """Describe this machine and the library of a backend."""
    backend = find(name)
    gpu = str(cuda_device.find()) if backend.on_gpu else ""
    return Executed(cpu=cpu_name(), system=system_name(), runtime=backend.library(), gpu=gpu)
