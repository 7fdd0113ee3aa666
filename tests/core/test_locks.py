"""Locks allow one writer per output, between threads, processes and process namespaces; and the form of lock files."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import Mock

import pytest

from naflex_deploy.core.errors import OutputError
from naflex_deploy.core.files import new_directory, new_file
from naflex_deploy.core.locks import LockedError, locked, waiting

HOLD = (
    "import sys; from pathlib import Path; from naflex_deploy.core.files import new_file\n"
    "with new_file(Path(sys.argv[1])) as partial:\n"
    "    partial.write_text('first'); print('held', flush=True); sys.stdin.readline()"
)


def hold(path: Path, *prefix: str) -> subprocess.Popen[str]:
    """Another process that writes ``path`` until its stdin ends or it is killed."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_a_second_writer_is_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    with hold(path) as first:
        with pytest.raises(LockedError) as caught, new_file(path):
            pytest.fail("two writers")
        assert f"process {first.pid} on '{socket.gethostname()}' since 2" in caught.value.message
        assert "--wait" in caught.value.hint
        assert caught.value.code == 2
        first.communicate("go on\n")
    assert (names(tmp_path), path.read_text()) == (["out.npz"], "first")


def test_threads_of_one_process_are_kept_apart_too(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def second() -> None:
        try:
            with locked(tmp_path / "out"):
                pass
        except LockedError as error:
            caught.append(error)

    with locked(tmp_path / "out"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(caught) == 1


def test_the_kernel_releases_the_lock_of_a_killed_writer(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    with hold(path) as first:
        first.send_signal(signal.SIGKILL)
    assert len(names(tmp_path)) == 2, "its lock file and its partial"
    with new_file(path) as partial:
        partial.write_text("second")
    assert (names(tmp_path), path.read_text()) == (["out.npz"], "second")


@pytest.mark.skipif(shutil.which("unshare") is None or os.geteuid() != 0, reason="only root makes process namespaces")
def test_two_containers_whose_processes_have_one_number_are_kept_apart(tmp_path: Path) -> None:
    namespace = ("unshare", "--pid", "--fork", "--kill-child")
    if subprocess.run([*namespace, "true"], capture_output=True).returncode:
        pytest.skip("this container may not make process namespaces")
    path = tmp_path / "out.npz"
    with hold(path, *namespace) as first:
        owner = json.loads((tmp_path / ".out.npz.lock").read_text())
        assert owner["process"] == 1
        second = subprocess.run(
            [*namespace, sys.executable, "-c", HOLD, str(path)], capture_output=True, text=True, input=""
        )
        assert "is being written by process 1 on" in second.stderr
        assert len(names(tmp_path)) == 2, "the first one's work is untouched"
        first.communicate("go on\n")
    assert (names(tmp_path), path.read_text()) == (["out.npz"], "first")


def test_waiting_takes_over_when_the_first_ends(tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    said: list[str] = []
    with hold(path) as first:

        def report(line: str) -> None:
            said.append(line)
            assert first.stdin is not None
            first.stdin.close()

        with waiting(report), new_file(path) as partial:
            assert path.read_text() == "first"
            partial.write_text("second")
    assert len(said) == 1
    assert f"process {first.pid} on" in said[0]
    assert (names(tmp_path), path.read_text()) == (["out.npz"], "second")


def test_ten_waiting_writers_never_overlap(tmp_path: Path) -> None:
    """Each reads a number, and writes one more: none is lost."""
    path = tmp_path / "count"
    path.write_text("0")

    def add() -> None:
        with waiting(lambda line: None), locked(path) as lock:
            number = int(path.read_text())
            with new_file(path, lock) as partial:
                partial.write_text(str(number + 1))

    threads = [threading.Thread(target=add) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (names(tmp_path), path.read_text()) == (["count"], "10")


@pytest.mark.parametrize("content", [b"", b"\0" * 512, b"not json", b"[1, 2]", b'{"process": "x"}', b"\xff" * 100_000])
def test_a_lock_file_that_is_garbage_stops_nobody_and_is_named_where_it_is_held(tmp_path: Path, content: bytes) -> None:
    path, file = tmp_path / "out", tmp_path / ".out.lock"
    file.write_bytes(content)
    with file.open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match=r"another process \(\.out\.lock does not say which\)"), locked(path):
            pass
    assert file.read_bytes() == content
    with new_file(path) as partial:
        partial.write_text("new")
    assert names(tmp_path) == ["out"]


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user may write to; those of pytest lie below one that is closed to others."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_a_lock_file_of_another_user_is_named(shared_folder: Path) -> None:
    path, file = shared_folder / "out", shared_folder / ".out.lock"
    file.write_text("{}")
    file.chmod(0o600)
    pid = os.fork()
    if pid == 0:
        os.setuid(65534)
        try:
            with locked(path):
                os._exit(1)
        except OutputError as error:
            os._exit(0 if "its lock .out.lock belongs to another user (root)" in error.message else 2)
        finally:
            os._exit(3)
    assert os.waitpid(pid, 0)[1] == 0
    assert names(shared_folder) == [".out.lock"]


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_something_else_in_the_place_of_a_lock_file_is_refused(tmp_path: Path, kind: str) -> None:
    file = tmp_path / ".out.lock"
    if kind == "directory":
        file.mkdir()
    else:
        (tmp_path / "precious").write_text("mine")
        file.symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match=r"\.out\.lock, .* is a directory or a link"), locked(tmp_path / "out"):
        pass
    assert kind == "directory" or (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    ("call", "number", "reason"),
    [
        ("open", errno.EROFS, "the file system is read-only"),
        ("open", errno.ENOSPC, "the disk is full"),
        ("ftruncate", errno.ENOSPC, "the disk is full"),
    ],
)
def test_a_volume_that_takes_no_lock_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, reason: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, call, Mock(side_effect=OSError(number, os.strerror(number))))
        with pytest.raises(OutputError, match=reason), new_directory(tmp_path / "out"):
            pytest.fail("no lock, no writing")
    assert names(tmp_path) == []


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))))
    with pytest.raises(OutputError, match="its file system has no locks"), locked(tmp_path / "out"):
        pass


def test_a_clock_that_jumps_decides_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, file = tmp_path / "out", tmp_path / ".out.lock"
    file.write_text(json.dumps({"host": "there", "process": os.getpid(), "since": "2999-01-01T00:00:00Z"}))
    os.utime(file, (4e9, 4e9))
    with locked(path):
        assert not json.loads(file.read_text())["since"].startswith("2999")
    assert names(tmp_path) == []
