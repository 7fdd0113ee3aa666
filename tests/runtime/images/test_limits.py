"""What an input may cost: members of shards, rows of tables, frames. Harmless inputs meet lowered limits."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from naflex_deploy.core.config import resolve
from naflex_deploy.core.errors import ImageError
from naflex_deploy.core.preprocessing import Preprocessing
from naflex_deploy.core.profile import LimitsSection
from naflex_deploy.runtime.images.inputs import open_inputs
from naflex_deploy.runtime.packing.prepare import Preparer


def opened(path: Path, **limits: int) -> list[tuple[str, object]]:
    return [(item.name, item.source) for item in open_inputs([path], limits=LimitsSection(**limits))]


def shard(path: Path, members: dict[str, bytes], **options: object) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.LNKTYPE, "large.png"
        archive.addfile(link)
    return path


def test_a_member_that_is_too_large_is_not_read_and_the_others_are(tmp_path):
    path = shard(tmp_path / "a.tar", {"a.png": bytes(100), "large.png": bytes(5000), "z.png": bytes(10)})
    found = dict(opened(path, member=1000))
    assert found[f"{path}/a.png"] == bytes(100)
    assert found[f"{path}/z.png"] == bytes(10)
    for name in ("large.png", "link.png"):
        error = found[f"{path}/{name}"]
        assert isinstance(error, ImageError)
        assert f"{name}: expected at most 1000 bytes, found 5000" in error.message
        assert "limits.member" in error.hint


def test_headers_of_a_shard_are_bounded(tmp_path, monkeypatch):
    long = f"{'x' * 3000}.png"
    path = shard(tmp_path / "a.tar", {"a.png": b"1", long: b"2"}, format=tarfile.PAX_FORMAT)
    assert (f"{path}/{long}", b"2") in opened(path)
    monkeypatch.setattr("naflex_deploy.runtime.images.shards.HEADER", 1000)
    (first, *_, (_, error)) = opened(path)
    assert first == (f"{path}/a.png", b"1")
    assert isinstance(error, ImageError)
    assert "a header of 3" in error.message


@pytest.mark.parametrize("name", ["b.png", "b.txt"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_shard_ends_where_its_file_does_whatever_size_a_member_claims(tmp_path, name, pack):
    start = tarfile.TarInfo("a.png")
    start.size = 1
    claim = tarfile.TarInfo(name)
    claim.size = 1 << 60  # 57 million years at the speed of a disk
    content = start.tobuf() + b"1".ljust(tarfile.BLOCKSIZE, b"\0") + claim.tobuf(tarfile.GNU_FORMAT) + bytes(5000)
    path = tmp_path / "a.tar"
    path.write_bytes(pack(content))
    (first, *refused, (_, error)) = opened(path)
    assert first == (f"{path}/a.png", b"1")
    assert [name for name, _ in refused] == ([f"{path}/b.png"] if name == "b.png" else [])
    assert isinstance(error, ImageError)
    assert f"it ends {(1 << 60) - 5000} bytes before the end of a member" in error.message


def test_rows_of_a_table_are_bounded_and_read_by_another_process(tmp_path):
    path = tmp_path / "a.parquet"
    cells = [bytes(100), bytes(5000), None, bytes(7)]
    parquet.write_table(pyarrow.table({"image": pyarrow.array(cells, pyarrow.binary())}), path)
    (_, first), (_, large), (_, none), (name, last) = opened(path, member=1000)
    assert (first, last, name) == (cells[0], cells[3], f"{path}#3")
    assert isinstance(large, ImageError)
    assert isinstance(none, ImageError)
    assert "#1: expected at most 1000 bytes, found 50" in large.message
    assert "limits.member" in large.hint


def test_a_table_whose_rows_take_too_long_names_the_setting(tmp_path, monkeypatch):
    def late(*arguments, seconds, memory):
        yield "a.parquet#0", b"first"
        raise TimeoutError(f"it took more than {seconds:g} s")

    # Whether a real table is late depends on the machine; tests of the worker hold that it ends in time.
    monkeypatch.setattr("naflex_deploy.runtime.images.tables.stream", late)
    parquet.write_table(pyarrow.table({"image": pyarrow.array([b"first"])}), tmp_path / "a.parquet")
    first, (_, error) = opened(tmp_path / "a.parquet", seconds=5)
    assert first == ("a.parquet#0", b"first")
    assert isinstance(error, ImageError)
    assert "reading a row took more than 5 s" in error.message
    assert "limits.seconds" in error.hint


def test_frames_are_bounded(tmp_path):
    pages = [Image.fromarray(np.full((16, 16, 3), number, np.uint8)) for number in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    profile = resolve("photo", settings=["limits.frames=2"], environment={}).profile
    prepare = Preparer(Preprocessing(patch_size=16), profile, "onnxruntime")
    results = [image.result for (image,) in prepare(0, tmp_path / "a.tif")]
    assert [result.error is None for result in results] == [True, True, False]
    assert results[-1].last
    assert "expected at most 2 frames" in str(results[-1].error)
    assert "limits.frames" in str(results[-1].error)
