"""The meaning of paths, and the contents of shards and tables written by the real libraries and read back in order."""

from __future__ import annotations

import hashlib
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError, MissingExtraError, UsageError
from naflex_deploy.runtime.images.inputs import Input, expand, open_inputs
from naflex_deploy.runtime.images.media.read import read_frames
from naflex_deploy.runtime.images.tables import read_parquet


def png(value: int) -> bytes:
    stream = BytesIO()
    Image.fromarray(np.full((4, 5, 3), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))
    return path


def table(path: Path, **columns: object) -> Path:
    parquet.write_table(pa.table(columns), path, row_group_size=3)
    return path


def test_patterns_and_directories(tmp_path: Path) -> None:
    for name in ("b.png", "a.PDF", "deep/c.dcm", "deep/d.mp4", "notes.txt", "e.tar", "f.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def found(*patterns: str) -> list[str]:
        return [str(path.relative_to(tmp_path)) for path in expand(tmp_path / pattern for pattern in patterns)]

    assert found(".") == ["a.PDF", "b.png", "deep/c.dcm", "deep/d.mp4"]
    assert found("*.p*", "notes.txt") == ["b.png", "f.parquet", "notes.txt"]
    assert found("**/*.dcm") == ["deep/c.dcm"]
    assert found("d*p") == ["deep/c.dcm", "deep/d.mp4"], "a directory that matches gives what is in it"
    for pattern, message in (("*.webp", "matches no file"), ("missing.png", "no such file")):
        with pytest.raises(UsageError, match=message):
            found(pattern)
    strange = tmp_path / "page[1].png"
    strange.write_bytes(b"")
    assert found("page[1].png") == ["page[1].png"], "a file of that very name is no pattern"


@pytest.mark.parametrize("name", ["a.tar", "a.tgz"])
def test_shards_give_their_images_in_order(tmp_path: Path, name: str) -> None:
    members = {"2/x.png": png(2), "2/x.json": b"{}", "1.PNG": png(1), "3.pdf": b"%PDF-"}
    path = tar(tmp_path / name, members)
    found = list(open_inputs([path, tmp_path / "b.png"]))
    assert [item.name for item in found] == [
        f"{path}/2/x.png",
        f"{path}/1.PNG",
        f"{path}/3.pdf",
        str(tmp_path / "b.png"),
    ]
    assert [item.source for item in found[:3]] == [members["2/x.png"], members["1.PNG"], b"%PDF-"]
    assert found[0].digest() == hashlib.sha256(members["2/x.png"]).hexdigest()


def test_tables_give_their_images_in_order(tmp_path: Path) -> None:
    images = [png(value) for value in range(10)]
    plain = table(tmp_path / "plain.parquet", id=pa.array(range(10)), content=pa.array(images, pa.binary()))
    named = table(
        tmp_path / "named.parquet", thumb=pa.array(images[:2]), image=pa.array(images[2:4], pa.large_binary())
    )
    structs = [{"bytes": image, "path": "x"} for image in images[:5]]
    nested = table(tmp_path / "nested.parquet", picture=pa.array(structs))
    found = list(open_inputs([plain, named, nested]))
    assert [item.source for item in found] == [*images, *images[2:4], *images[:5]]
    assert [item.name for item in found[:10]] == [f"{plain}#{row}" for row in range(10)]


def test_bad_shards_and_tables_say_what_is_wrong_and_lose_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tar(tmp_path / "whole.tar", {"1.png": png(1), "2.png": png(2) * 50})
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:2500])
    text = tmp_path / "text.tar"
    text.write_text("no archive" * 100)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1" + b"x" * 50)
    hole = table(tmp_path / "hole.parquet", image=pa.array([png(1), None], pa.binary()))
    two = table(tmp_path / "two.parquet", a=pa.array([b"x"]), b=pa.array([b"y"]))
    paths = [cut, text, tar(tmp_path / "none.tar", {"a.txt": b""}), broken, two, hole, tmp_path / "missing.tar"]
    found = list(open_inputs([*paths, tmp_path / "good.png"]))
    errors = {Path(item.name).name: item.source.message for item in found if isinstance(item.source, ImageError)}
    for name, message in {
        "cut.tar": "damaged or truncated tar archive",
        "text.tar": "damaged or truncated tar archive",
        "none.tar": "found a tar archive without any",
        "broken.parquet": "damaged Parquet table",
        "two.parquet": "expected a column of image bytes, found a, b of a, b",
        "hole.parquet#1": "expected an image, found none",
        "missing.tar": "damaged or truncated tar archive",
    }.items():
        assert message in errors.pop(name)
    assert not errors
    assert found[-1] == Input(str(tmp_path / "good.png"), tmp_path / "good.png")
    assert [item.name for item in found if isinstance(item.source, bytes)] == [f"{cut}/1.png", f"{hole}#0"]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ((_, missing),) = read_parquet(hole)
    assert isinstance(missing, MissingExtraError)
    assert "naflex-deploy[parquet]" in missing.hint


STRUCTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_rows_may_name_paths_and_hold_lists(tmp_path: Path) -> None:
    """As the datasets library writes them: a path is relative to the table."""
    (tmp_path / "b.png").write_bytes(png(1))
    rows = [{"bytes": None, "path": str(tmp_path / "b.png")}, {"bytes": None, "path": "b.png"}, {"bytes": png(2)}]
    paths = table(tmp_path / "paths.parquet", image=pa.array(rows, STRUCTURE), label=pa.array([0, 1, 2]))
    assert [item.source for item in open_inputs([paths])] == [tmp_path / "b.png", tmp_path / "b.png", png(2)]
    text = table(tmp_path / "text.parquet", image=pa.array(["b.png", None]))
    first, second = open_inputs([text])
    assert first.source == tmp_path / "b.png"
    assert isinstance(second.source, ImageError)
    pair = [[{"bytes": png(3), "path": None}, {"bytes": None, "path": "b.png"}]]
    lists = table(tmp_path / "lists.parquet", images=pa.array(pair, pa.list_(STRUCTURE)), q=pa.array(["?"]))
    (several,) = open_inputs([lists])
    assert several.source == (png(3), tmp_path / "b.png")
    profile = resolve("photo", environment={}).profile
    found = list(read_frames(several.source, name=several.name, profile=profile))
    assert [(frame.number, frame.last) for frame in found] == [(0, False), (1, True)]
    assert [int(np.asarray(frame.picture).max()) for frame in found] == [3, 1]
    (rest,) = read_frames(several.source, name="a", profile=profile, done=(0,))
    assert rest.number == 1


def test_arrow_types_and_named_columns(tmp_path: Path) -> None:
    images = [png(1), png(2)]
    for name, array in {
        "dictionary": pa.array(images, pa.binary()).dictionary_encode(),
        "view": pa.array(images, pa.binary_view()),
        "large": pa.array(images, pa.large_binary()),
    }.items():
        assert [item.source for item in open_inputs([table(tmp_path / f"{name}.parquet", image=array)])] == images
    beside = table(tmp_path / "beside.parquet", img=pa.array([{"bytes": png(1)}]), sha=pa.array([b"x"]))
    assert [item.source for item in open_inputs([beside])] == [png(1)], "a structure before plain bytes"
    two = table(tmp_path / "two.parquet", left=pa.array(images[:1]), right=pa.array(images[1:]))
    named = [Path(f"{two}::right"), Path(f"{two}::left"), Path(f"{two}::lef")]
    assert list(expand(named)) == named
    right, left, missing = open_inputs(named)
    assert (right.source, left.source) == (png(2), png(1))
    assert isinstance(missing.source, ImageError)
    assert "did you mean 'left'" in missing.source.hint
    (undecided,) = open_inputs([two])
    assert isinstance(undecided.source, ImageError)
    assert "two.parquet::left" in undecided.source.hint


def test_braces_spell_names_out(tmp_path: Path) -> None:
    for name in ("s-008.tar", "s-009.tar", "s-010.tar", "left.png", "right.png"):
        (tmp_path / name).write_bytes(b"")

    def found(pattern: str) -> list[str]:
        return [path.name for path in expand([tmp_path / pattern])]

    assert found("s-{008..010}.tar") == ["s-008.tar", "s-009.tar", "s-010.tar"]
    assert found("{right,left}.png") == ["right.png", "left.png"]
    with pytest.raises(UsageError, match=r"s-011\.tar: no such file"):
        found("s-{010..011}.tar")
    (tmp_path / "{odd}.png").write_bytes(b"")
    assert found("{odd}.png") == ["{odd}.png"]


def test_members_that_are_no_images_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("a.png", "._a.png", "__MACOSX/a.png", "a.json", "b.JPEG"):
            entry = tarfile.TarInfo(name)
            entry.size = len(png(1))
            archive.addfile(entry, BytesIO(png(1)))
        for name, target, kind in (
            ("c.png", "a.png", tarfile.LNKTYPE),
            ("d.png", "none.png", tarfile.LNKTYPE),
            ("e.png", "a.png", tarfile.SYMTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    left: list[Path] = []
    found = {Path(item.name).name: item.source for item in open_inputs([path], left.append)}
    assert [name for name, source in found.items() if source == png(1)] == ["a.png", "b.JPEG", "c.png"]
    assert isinstance(found["d.png"], ImageError)
    assert "links to none.png" in found["d.png"].message
    assert [str(item.relative_to(path)) for item in left] == ["._a.png", "__MACOSX/a.png", "a.json", "e.png"]
