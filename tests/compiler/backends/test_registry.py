"""The compiler and runtime side of every backend in the registry."""

from __future__ import annotations

from typing import get_args

import pytest

from naflex_deploy.compiler.backends.lowering import Lowering
from naflex_deploy.compiler.backends.registry import lowering_of
from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.config import resolve
from naflex_deploy.core.profile import Precision
from naflex_deploy.runtime.backends import find
from naflex_deploy.runtime.backends.backend import Backend


@pytest.mark.parametrize("name", FOLDERS)
def test_a_backend_is_found_on_both_sides(name: str) -> None:
    backend, lowering = find(name), lowering_of(name)
    assert isinstance(backend, Backend)
    assert isinstance(lowering, Lowering)
    assert lowering.backend is backend
    assert backend.name == name
    assert set(backend.precisions) <= set(get_args(Precision)) - {"auto"}
    assert backend.automatic(resolve("photo").profile) in backend.precisions


@pytest.mark.parametrize("name", FOLDERS)
def test_doctor_has_a_row_for_each_backend(name: str) -> None:
    checks = find(name).checks()
    assert checks[0][0] == name
    assert all(len(check) == 3 and check[1] for check in checks)
