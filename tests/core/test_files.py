"""Nothing is ever half-written: not on an error, a full disk, a kill or a read-only file system."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import Mock

import pytest

from naflex_deploy.core import files
from naflex_deploy.core.errors import OutputError, UsageError
from naflex_deploy.core.files import new_directory, new_file, read_rows, read_text, reserved, sha256
from naflex_deploy.core.locks import LockedError, standing


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def write(kind: str, path: Path, content: str = "new", force: bool = False) -> None:
    """A file, or a directory with a file in it."""
    if kind == "file":
        with new_file(path) as partial:
            partial.write_text(content)
    else:
        with new_directory(path, force=force) as partial:
            (partial / "inside").write_text(content)


def read(path: Path) -> str:
    return (path if path.is_file() else path / "inside").read_text()


def opened(kind: str, path: Path) -> AbstractContextManager[Path]:
    return new_file(path) if kind == "file" else new_directory(path, force=True)


def write_half(kind: str, path: Path, then: Callable[[], None]) -> None:
    with opened(kind, path) as partial:
        (partial if kind == "file" else partial / "inside").write_text("half")
        then()


both = pytest.mark.parametrize("kind", ["file", "directory"])


@both
def test_it_appears_whole_with_the_directories_above_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a" / "b [1]"
    with opened(kind, path) as partial:
        assert not path.exists()
        assert partial.parent == path.parent  # so that the rename stays within one file system
        if kind == "file":
            partial.write_text("new")
        else:
            (partial / "inside").write_text("new")
    assert read(path) == "new"
    assert names(path.parent) == ["b [1]"]


@both
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError(errno.ENOSPC, "full")])
def test_an_error_leaves_what_was_there(tmp_path: Path, kind: str, error: BaseException) -> None:
    path = tmp_path / "out"
    for existing in ([], ["out"]):
        with pytest.raises((RuntimeError, KeyboardInterrupt, OutputError)):
            write_half(kind, path, Mock(side_effect=error))
        assert names(tmp_path) == existing
        if existing:
            assert read(path) == "old"
        else:
            write(kind, path, "old")


@both
@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission is denied"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_refusal_of_the_system_is_explained(tmp_path: Path, kind: str, number: int, reason: str) -> None:
    # The errors are simulated, because root may write everywhere, and a test cannot mount file systems.
    with pytest.raises(OutputError) as caught:
        write_half(kind, tmp_path / "out", Mock(side_effect=OSError(number, os.strerror(number))))
    assert caught.value.message == f"cannot write {tmp_path / 'out'}: {reason}"
    assert caught.value.hint
    assert names(tmp_path) == []


@both
def test_a_read_only_directory_is_explained(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "mkdir", Mock(side_effect=OSError(errno.EROFS, os.strerror(errno.EROFS))))
    with pytest.raises(OutputError, match="the file system is read-only"):
        write(kind, tmp_path / "sub" / "out")


@both
def test_a_file_in_the_way_is_explained(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="a part of the path is a file"):
        write(kind, tmp_path / "file" / "out")
    assert (tmp_path / "file").read_text() == "mine"


@both
def test_a_write_that_the_system_cuts_short_leaves_nothing(tmp_path: Path, kind: str) -> None:
    """A real one: the process may write no file above 4 KiB."""
    script = (
        "import resource, sys; from pathlib import Path; from tests.core.test_files import write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "write(sys.argv[1], Path(sys.argv[2]), 'x' * 100_000)"
    )
    run = subprocess.run([sys.executable, "-c", script, kind, str(tmp_path / "out")], capture_output=True, text=True)
    assert "OutputError: cannot write" in run.stderr
    assert names(tmp_path) == []


def test_an_existing_directory_is_refused_and_untouched(tmp_path: Path) -> None:
    write("directory", tmp_path / "out", "old")
    with pytest.raises(OutputError, match="exists already") as caught:
        write("directory", tmp_path / "out")
    assert "--force" in caught.value.hint
    assert read(tmp_path / "out") == "old"


def test_force_replaces_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write("directory", path, "old")
    (path / "extra").write_text("")
    with new_directory(path, force=True) as partial:
        (partial / "inside").write_text("new")
        assert read(path) == "old"
    assert (names(tmp_path), names(path), read(path)) == (["out"], ["inside"], "new")


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
def test_a_replacement_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchanges: bool
) -> None:
    path = tmp_path / "out"
    write("directory", path, "old")
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if Path(target) == path and read(Path(source)) == "new":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    if exchanges:
        monkeypatch.setattr(files, "exchange", Mock(side_effect=OSError(errno.EIO, os.strerror(errno.EIO))))
    else:
        monkeypatch.setattr(files, "exchange", Mock(return_value=False))
        monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OutputError, match="Input/output error"):
        write("directory", path, "new", force=True)
    assert (names(tmp_path), read(path)) == (["out"], "old")


def test_a_replaced_directory_is_never_absent(tmp_path: Path) -> None:
    """Another process replaces it over and over, while this one looks."""
    path = tmp_path / "out"
    write("directory", path, "old")
    script = (
        "import sys; from pathlib import Path; from tests.core.test_files import write\n"
        "for number in range(40): write('directory', Path(sys.argv[1]), str(number), True)"
    )
    looked = 0
    with subprocess.Popen([sys.executable, "-c", script, str(path)]) as process:
        while process.poll() is None:
            os.stat(path)
            looked += 1
    assert (process.returncode, read(path)) == (0, "39")
    assert looked > 40


def test_without_an_exchange_a_reader_follows_the_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out"
    write("directory", path, "old")
    seen: list[tuple[bool, str]] = []
    rename = os.rename

    def looking(source: Path, target: Path) -> None:
        rename(source, target)
        seen.append((path.exists(), read(standing(path))))

    monkeypatch.setattr(files, "exchange", lambda first, second: False)
    monkeypatch.setattr(os, "rename", looking)
    write("directory", path, "new", force=True)
    assert seen == [(False, "old"), (True, "new")]
    assert (names(tmp_path), standing(path)) == (["out"], path)


def test_what_is_written_is_synced_before_its_rename_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync = os.fsync

    def noting(descriptor: int) -> None:
        done.append(re.sub("partial-[0-9a-f]+", "partial", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    write("file", tmp_path / "file")
    write("directory", tmp_path / "folder")
    assert done == [".file.partial", tmp_path.name, "inside", ".folder.partial", tmp_path.name]


@both
def test_a_sync_that_fails_is_an_error(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may report a full disk as late as here."""
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OutputError, match="the disk is full"):
        write(kind, tmp_path / "out")
    assert names(tmp_path) == []


def test_force_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    write("directory", tmp_path / "target", "theirs")
    (tmp_path / "out").symlink_to(tmp_path / "target")
    write("directory", tmp_path / "out", "mine", force=True)
    assert (read(tmp_path / "out"), read(tmp_path / "target")) == ("mine", "theirs")
    assert names(tmp_path) == ["out", "target"]


def test_force_replaces_no_directory_of_another_kind(tmp_path: Path) -> None:
    """Also one that appears while the new one is written; an empty one has nothing to lose."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter-1").write_text("…")
    (tmp_path / "file").write_text("…")
    for name in ("thesis", "file"):
        with (
            pytest.raises(OutputError, match=r"has no \*/marker, so it was not made by this command"),
            new_directory(tmp_path / name, force=True, made="*/marker"),
        ):
            pytest.fail("it was refused before anything was written")
    (tmp_path / "empty").mkdir()
    for _ in range(2):
        with new_directory(tmp_path / "empty", force=True, made="*/marker") as partial:
            (partial / "deeper").mkdir()
            (partial / "deeper" / "marker").touch()
    with (
        pytest.raises(OutputError, match="was not made by this command"),
        new_directory(tmp_path / "late", force=True, made="*/marker"),
    ):
        (tmp_path / "thesis").rename(tmp_path / "late")
    assert (tmp_path / "late" / "chapter-1").read_text() == "…"


def test_what_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="exists already"), new_directory(path):
        path.mkdir()
    assert (names(tmp_path), names(path)) == (["out"], [])


@both
def test_what_a_killed_process_left_is_swept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out [1]"
    script = (
        "import os, signal, sys; from pathlib import Path; from tests.core.test_files import write_half\n"
        "write_half(sys.argv[1], Path(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL))"
    )
    run = subprocess.run([sys.executable, "-c", script, kind, str(path)])
    assert run.returncode == -signal.SIGKILL
    left = names(tmp_path)
    assert len(left) == 2
    assert left[0] == ".out [1].lock"
    assert left[1].startswith(".out [1].partial-")
    write(kind, path)
    assert names(tmp_path) == ["out [1]"]


@both
def test_only_what_belongs_to_the_lock_is_swept(tmp_path: Path, kind: str) -> None:
    """Neither the work of another output, nor files whose names only resemble a temporary one."""
    others = [".outer.partial-0123456789abcdef", ".out.partial-12", ".out.partial-0123456789abcdef-x", "out.partial-9"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".out.partial-0123456789abcdef").mkdir()
    write(kind, tmp_path / "out")
    assert names(tmp_path) == sorted([*others, "out"])


def test_a_replacement_that_was_killed_half_way_gives_the_old_one_back(tmp_path: Path) -> None:
    old = tmp_path / ".out.replaced"
    old.mkdir()
    (old / "inside").write_text("old")
    assert read(standing(tmp_path / "out")) == "old"
    with pytest.raises(OutputError, match="exists already"):
        write("directory", tmp_path / "out")
    assert (names(tmp_path), read(tmp_path / "out")) == (["out"], "old")


def test_an_output_is_reserved_from_before_it_is_looked_for(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with reserved(path, force=False) as lock:
        with pytest.raises(LockedError), reserved(path, force=True):
            pytest.fail("somebody else has it")
        with new_file(path, lock) as partial:
            partial.write_text("mine")
    with pytest.raises(OutputError, match="exists already"), reserved(path, force=False):
        pytest.fail("it is there")
    assert names(tmp_path) == ["out"]


def test_a_digest_is_sha256(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte-order mark"])
def test_text_is_read_with_and_without_a_byte_order_mark(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(mark + 'a,1\r\n\r\n"ä\nb",2\n , \nc,3'.encode())
    assert read_text(path, hint="") == 'a,1\r\n\r\n"ä\nb",2\n , \nc,3'
    assert read_rows(path, hint="") == [(1, ["a", "1"]), (4, ["ä\nb", "2"]), (6, ["c", "3"])]


@pytest.mark.parametrize(
    ("content", "said"), [(b"caf\xe9", "is not UTF-8 text"), (None, "cannot read .*: No such file")]
)
def test_text_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    for read_it in (read_text, read_rows):
        with pytest.raises(UsageError, match=said) as caught:
            read_it(tmp_path / "text", hint="give another")
        assert caught.value.hint
