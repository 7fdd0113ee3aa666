from pathlib import Path

import pytest

from naflex_deploy.compiler import pipeline
from naflex_deploy.compiler.quantize import calibration
from tests.support.tiny import bundle, copied, own_bundle
from tests.support.vlms import vlm_bundle, vlm_directory

__all__ = ["bundle", "own_bundle", "vlm_bundle", "vlm_directory"]


@pytest.fixture
def _exported_before(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds and calibrations take the portable graph of the shared bundle."""
    monkeypatch.setattr(pipeline, "export", copied(bundle))
    monkeypatch.setattr(calibration, "export", copied(bundle))
