from __future__ import annotations

import inspect
import pickle

import pytest

from naflex_deploy.core import errors
from naflex_deploy.core.errors import NaflexError, nearest

EXIT_CODES = {
    "NaflexError": 1,
    "UsageError": 2,
    "MissingExtraError": 2,
    "CheckpointError": 2,
    "NoCheckpointError": 2,
    "OutputError": 2,
    "GateError": 3,
    "IncompatibleError": 4,
    "BundleError": 4,
    "CalibrationError": 4,
    "BenchmarkError": 5,
    "ImageError": 6,
}


def test_every_error_is_in_one_tree_and_has_its_exit_code() -> None:
    classes = {name: value for name, value in inspect.getmembers(errors, inspect.isclass) if name.endswith("Error")}
    assert {name: value.code for name, value in classes.items()} == EXIT_CODES
    assert all(issubclass(value, NaflexError) for value in classes.values())


@pytest.mark.parametrize(("hint", "text"), [("", "what"), ("do this", "what (do this)")])
def test_text_is_the_message_and_then_the_hint(hint: str, text: str) -> None:
    error = NaflexError("what", hint=hint)
    assert (str(error), error.message, error.hint) == (text, "what", hint)


def test_a_missing_extra_names_module_and_command() -> None:
    error = errors.MissingExtraError("torch", "build")
    assert "'torch'" in error.message
    assert error.hint == "pip install 'naflex-deploy[build]'"
    of_a_file = pickle.loads(pickle.dumps(errors.MissingExtraError("pypdfium2", "pdf", "scans/report.pdf")))
    assert of_a_file.message == "scans/report.pdf needs the Python module 'pypdfium2', which is not installed"


def test_nearest_names_a_close_name_or_else_all() -> None:
    assert nearest("phot", ["photo", "edge"]) == "did you mean 'photo'?"
    assert nearest("zzz", ["photo", "edge"]) == "known: edge, photo"
