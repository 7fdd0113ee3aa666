from __future__ import annotations

from pathlib import Path

import pytest

from naflex_deploy.cli.api_keys import read_keys
from naflex_deploy.core.errors import UsageError


def test_keys_are_the_lines_that_are_not_blank(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes("\ufefffirst key\r\n\r\n  second\n".encode())
    assert read_keys(path) == ["first key", "second"]
    path.write_text("\n \n")
    with pytest.raises(UsageError, match="expected keys, found none"):
        read_keys(path)
    with pytest.raises(UsageError, match="cannot read"):
        read_keys(tmp_path / "none")
