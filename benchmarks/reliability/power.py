"""Power cuts, replayed: from recorded system calls, what a disk may hold at any moment if nothing unsynced was written.

A file's content is durable as of its last ``fsync``, and the names of a folder as of the folder's. At a cut, each file
and each folder is what it was at its last sync, or any state since then: the worst case, or a random one.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.commands import VARIANT, built, drawn, left, run, truth, wrong
from benchmarks.reliability.kills import _damage
from benchmarks.reliability.tracing import CALLS, record, whole

IMAGES = 20
CALL = re.compile(r"\d+ +(\w+)\((.*)\) += (-?\d+)")
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')


@dataclass
class File:
    """Every content that a file had since its last sync, the synced one first."""

    states: list[bytes] = field(default_factory=lambda: [b""])


@dataclass
class Folder:
    """Every set of names that a folder had since its last sync, the synced one first."""

    states: list[dict[str, File | Folder]] = field(default_factory=lambda: [{}])


class Disk:
    """What a file system holds below a folder, and may hold after a power cut.

    Args:
        place: The folder; its content now is durable.
    """

    def __init__(self, place: Path) -> None:
        self._place = place
        self._root = self._read(place)
        self._places: dict[str, int | None] = {}
        self.unknown: Counter[str] = Counter()

    def _read(self, path: Path) -> Folder:
        return Folder(
            [{one.name: self._read(one) if one.is_dir() else File([one.read_bytes()]) for one in path.iterdir()}]
        )

    def apply(self, line: str) -> bool:
        """Apply a line of strace.

        Returns:
            Whether it changed anything below the folder.
        """
        match = CALL.match(line)
        if not match or int(match[3]) < 0:
            return False
        call, arguments, result = match[1], match[2], int(match[3])
        texts = [bytes.fromhex(text.replace("\\x", "")) for text, _ in TEXT.findall(arguments)]
        paths = [text.decode("utf-8", "surrogateescape") for text in texts]
        descriptor = re.match(r"\d+<([^>]*)>", arguments)
        opened = descriptor[1].encode().decode("unicode_escape").encode("latin-1").decode() if descriptor else ""
        number = arguments.split("<")[0]
        if call in ("open", "openat", "creat"):
            # Processes have numbers of their own; only one of them opens what is below the folder.
            if self._inside(paths[0]):
                self._places[match[3]] = None if "O_APPEND" in arguments else 0
            return self._open(paths[0], arguments)
        if call == "lseek":
            if self._inside(opened):
                self._places[number] = result
            return False
        if call == "pwrite64" and self._inside(opened):
            return self._write(opened, texts[0][:result], int(arguments.rsplit(",", 1)[1]))
        if call == "write" and self._inside(opened):
            place = self._places.get(number, 0)
            self._places[number] = None if place is None else place + result
            return self._write(opened, texts[0][:result], place)
        if call in ("sendfile", "copy_file_range", "writev") and self._inside(opened):
            return self._copy(call, arguments, result)
        if call == "ftruncate" and self._inside(opened):
            size = int(arguments.rsplit(",", 1)[1])
            return self._set(opened, self._file(opened).states[-1][:size].ljust(size, b"\0"))
        if call in ("fsync", "fdatasync") and self._inside(opened):
            found = self._find(opened)
            if found is not None:
                found.states[:] = [found.states[-1]]  # type: ignore[assignment]
            return True
        if call.startswith("rename"):
            return self._rename(paths[0], paths[1], exchange="RENAME_EXCHANGE" in arguments)
        if call in ("unlink", "unlinkat", "rmdir"):
            path = paths[0]
            if not path.startswith("/"):  # relative to a folder that is open
                path = f"{opened}/{path}"
            return self._put(path, None)
        if call in ("mkdir", "mkdirat"):
            return self._put(paths[-1], Folder())
        if call in ("link", "linkat"):
            return self._put(paths[1], self._find(paths[0]))
        return False

    def write(self, target: Path, rng: random.Random | None) -> None:
        """Make a folder of what the disk may hold after a cut.

        Args:
            target: The folder.
            rng: Chooses among the states since the last syncs; without it, the synced ones.
        """

        def make(folder: Folder, path: Path) -> None:
            path.mkdir(parents=True)
            for name, one in (rng.choice(folder.states) if rng else folder.states[0]).items():
                if isinstance(one, Folder):
                    make(one, path / name)
                else:
                    (path / name).write_bytes(rng.choice(one.states) if rng else one.states[0])

        shutil.rmtree(target, ignore_errors=True)
        make(self._root, target)

    def _inside(self, path: str) -> bool:
        return path == str(self._place) or path.startswith(f"{self._place}/")

    def _find(self, path: str) -> File | Folder | None:
        if not self._inside(path):
            return None
        found: File | Folder | None = self._root
        for part in Path(path).relative_to(self._place).parts:
            found = found.states[-1].get(part) if isinstance(found, Folder) else None
        return found

    def _file(self, path: str) -> File:
        found = self._find(path)
        return found if isinstance(found, File) else File()

    def _put(self, path: str, one: File | Folder | None) -> bool:
        above = self._find(str(Path(path).parent))
        if not isinstance(above, Folder):
            return False
        names = {name: value for name, value in above.states[-1].items() if name != Path(path).name}
        above.states.append(names if one is None else names | {Path(path).name: one})
        return True

    def _open(self, path: str, arguments: str) -> bool:
        found = self._find(path)
        if "O_CREAT" in arguments and found is None:
            return self._put(path, File())
        if "O_TRUNC" in arguments and isinstance(found, File):
            found.states.append(b"")
            return True
        return False

    def _write(self, path: str, content: bytes, offset: int | None) -> bool:
        before = self._file(path).states[-1]
        place = len(before) if offset is None else offset
        return self._set(path, before[:place].ljust(place, b"\0") + content + before[place + len(content) :])

    def _set(self, path: str, content: bytes) -> bool:
        found = self._find(path)
        if isinstance(found, File):
            found.states.append(content)
        return isinstance(found, File)

    def _copy(self, call: str, arguments: str, size: int) -> bool:
        names = [name.encode().decode("unicode_escape") for name in re.findall(r"\d+<([^>]*)>", arguments)]
        if call == "writev" or len(names) < 2:
            self.unknown[call] += 1
            return False
        source, target = (names[1], names[0]) if call == "sendfile" else (names[0], names[1])
        done = len(self._file(target).states[-1])
        with open(source, "rb") as stream:
            stream.seek(done)
            return self._write(target, stream.read(size), None)

    def _rename(self, source: str, target: str, *, exchange: bool) -> bool:
        first, second = self._find(source), self._find(target)
        if first is None:
            return False
        folder = self._find(str(Path(target).parent))
        assert isinstance(folder, Folder)
        names = {name: one for name, one in folder.states[-1].items() if name != Path(source).name}
        names[Path(target).name] = first
        if exchange and second is not None:
            names[Path(source).name] = second
        folder.states.append(names)  # one change, as a journaling file system makes it
        return True


def measure(folder: Path, cuts: int, seed: int = 0) -> dict[str, Any]:
    """Cut at moments spread over a run of ``embed`` and one of ``bundle strip --force``, and at their very end."""
    bundle, images = built(folder), drawn(folder / "images", 60)[:IMAGES]
    expected = truth(bundle, images)
    place, kept = folder / "power", folder / "trace"
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    faults: list[str] = []
    output = place / "out.npz"
    embed = ["embed", bundle, *images, "-o", output]
    for lines, disk in _replays(place, kept, embed, cuts // 2, seed, faults):
        for chance in (None, rng):
            disk.write(place, chance)
            counts["cuts"] += 1
            there = output.exists()
            if there:
                found = wrong(output, expected)
                counts["vectors"] += found[0]
                if found != (IMAGES, 0):
                    faults.append(f"embed, cut after {lines} calls: {found[0]} rows, {found[1]} wrong")
            elif lines < 0:
                faults.append("embed: reported done, and lost")
            again = run(*embed, "--resume")
            found = wrong(output, expected) if output.exists() else (0, 0)
            counts["vectors"] += found[0]
            if again.code or found != (IMAGES, 0) or left(place) != ["out.npz"]:
                said = f"{again.code}, {found}, left {left(place)}: {again.said[-300:]}"
                faults.append(f"embed, cut after {lines} calls: resumed with {said}")
    edge = place / "edge"
    strip = ["bundle", "strip", bundle, "--variant", VARIANT, "-o", edge, "--force"]
    shutil.rmtree(place, ignore_errors=True)
    run(*strip)
    for lines, disk in _replays(place, kept, strip, cuts - cuts // 2, seed, faults, keep=True):
        for chance in (None, rng):
            disk.write(place, chance)
            counts["cuts"] += 1
            if fault := _damage(edge):
                faults.append(f"strip --force, cut after {lines} calls: {fault}")
            again = run(*strip)
            if again.code or len(list(place.iterdir())) != 1:
                faults.append(f"strip --force, cut after {lines} calls: the next run: {again.code}, left {left(place)}")
    return {**counts, "faults": faults}


def _replays(
    place: Path, kept: Path, command: list[object], cuts: int, seed: int, faults: list[str], *, keep: bool = False
) -> Iterator[tuple[int, Disk]]:
    """(calls before the cut, the disk then); -1 calls stands for a cut after the run has reported that it is done."""
    if not keep:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    before = place.with_name("power-before")
    shutil.rmtree(before, ignore_errors=True)
    shutil.copytree(place, before)
    ended = record(command, kept, "-xx", "-s", "100000000", calls=(*CALLS, "lseek"))
    if ended.code:
        faults.append(f"undisturbed: exit {ended.code}: {ended.said[-300:]}")
    lines = list(whole(kept.read_text(errors="surrogateescape").splitlines()))
    shutil.rmtree(place)
    shutil.copytree(before, place)
    disk = Disk(place)
    changes = [number for number, line in enumerate(lines) if disk.apply(line)]
    if disk.unknown:
        faults.append(f"calls that the replay does not know: {dict(disk.unknown)}")
    # Two states are looked at in each cut.
    step = max(1, len(changes) // max(1, cuts // 2))
    for last in [*changes[seed % step :: step], -1]:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(before, place)
        disk = Disk(place)
        for line in lines if last < 0 else lines[: last + 1]:
            disk.apply(line)
        yield last, disk
