from pathlib import Path

import pytest

from naflex_deploy.compiler import pipeline
from naflex_deploy.compiler.quantize import calibration
from tests.support.tiny import bundle, copied, own_bundle

__all__ = ["bundle", "own_bundle"]


@pytest.fixture
def _exported_before(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds and calibrations take the portable graph of the shared bundle."""
    monkeypatch.setattr(pipeline, "export", copied(bundle))
    monkeypatch.setattr(calibration, "export", copied(bundle))
