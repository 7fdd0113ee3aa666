"""Files of labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from naflex_deploy.compiler.quantize.images import read_labels
from naflex_deploy.core.errors import UsageError

FILES = ("a.png", "b/c, d.png", "e.png")


def read(folder: Path, content: str) -> dict[str, str]:
    path = folder / "labels.csv"
    path.write_text(content, encoding="utf-8", newline="")
    return read_labels(path, FILES)


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order mark"])
def test_blank_lines_and_a_byte_order_mark_say_nothing(tmp_path: Path, mark: str) -> None:
    found = read(tmp_path, f'{mark}a.png,page\r\n\r\n"b/c, d.png",receipt\r\n\r\n')
    assert found == {"a.png": "page", "b/c, d.png": "receipt"}


@pytest.mark.parametrize("again", ["page", "receipt"])
def test_a_path_that_is_listed_twice_is_refused(tmp_path: Path, again: str) -> None:
    with pytest.raises(UsageError, match=r"line 4: 'a\.png' is already in line 1") as caught:
        read(tmp_path, f"a.png,page\n\ne.png,page\na.png,{again}\n")
    assert caught.value.hint == "remove one of the two lines"


def test_the_line_of_a_file_that_is_not_there_is_counted_with_blank_lines(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 3: expected path,class .*, found 'x\.png,page'"):
        read(tmp_path, "a.png,page\n\nx.png,page\n")
