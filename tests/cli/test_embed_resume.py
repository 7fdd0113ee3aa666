"""``naflex-deploy embed --resume``: what decides the vectors is checked by name, and damage loses nothing."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import Result
from PIL import Image

import naflex_deploy
from naflex_deploy.core.manifest import FileEntry
from naflex_deploy.runtime.embedding import contents as contents_module
from naflex_deploy.runtime.embedding import key as key_module
from naflex_deploy.runtime.images import versions as versions_module
from naflex_deploy.runtime.results.journal import Journal
from tests.cli.conftest import Run, drawn
from tests.support.manifests import edit


@pytest.fixture
def begun(run: Run, bundle: Path, images: Path, tmp_path: Path) -> Path:
    """An output whose run was stopped when everything was in its journal."""
    output = tmp_path / "out.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "finish", lambda self, order, provenance: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("embed", bundle, images, "-o", output)
    return output


@pytest.fixture(scope="module")
def expected(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The vectors of the images, through Python."""
    folder = tmp_path_factory.mktemp("expected") / "images"
    return naflex_deploy.load(bundle).embed(ordered(drawn(folder)))


def journal(output: Path) -> Path:
    return output.with_name(f".{output.name}.journal")


def changed(bundle: Path, target: Path, change: Callable[[dict[str, Any], Path], None]) -> Path:
    """A copy of a bundle with another manifest."""
    shutil.copytree(bundle, target)
    edit(target, lambda manifest: change(manifest, target))
    return target


def another_engine(manifest: dict[str, Any], bundle: Path) -> None:
    """Of the same name, as a rebuild with other options leaves it: vectors twice as long."""
    name = manifest["variants"][0]["model"]
    graph = onnx.load(bundle / name, load_external_data=False)
    for node in graph.graph.node:
        node.output[:] = ["before" if output == "pooled" else output for output in node.output]
        node.input[:] = ["before" if output == "pooled" else output for output in node.input]
    graph.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2.0, np.float32), "two"))
    graph.graph.node.append(onnx.helper.make_node("Mul", ["before", "two"], ["pooled"]))
    onnx.save(graph, bundle / name)
    manifest["files"][name] = FileEntry.of(bundle / name).model_dump()


CHANGES: dict[str, Callable[[dict[str, Any], Path], None]] = {
    "engine.": another_engine,
    "model": lambda m, b: m["model"].update(digest="0" * 64),
    "variant.budgets": lambda m, b: m["variants"][0].update(budgets=[512]),
    'preprocessing.resample was "bilinear", is "bicubic"': lambda m, b: m["preprocessing"].update(resample="bicubic"),
    "head.labels": lambda m, b: m["head"].update(labels=["CAT", "DOG", "OWL"]),
    "head.thresholds": lambda m, b: m["head"].update(thresholds=[0.1, 0.1, 0.1]),
    "packing.max_images": lambda m, b: m["config"]["packing"].update(max_images=3),
}
SETTINGS = {
    "image.dpi was 150": "image.dpi=72",
    "image.tokens": "image.tokens=64",
    "video.rate": "video.rate=3",
    'volume.axis was "axial"': "volume.axis=sagittal",
    "ros.rate": "ros.rate=3",
}


@pytest.mark.parametrize("named", CHANGES)
def test_another_bundle_does_not_continue_a_run(
    run: Run, bundle: Path, images: Path, begun: Path, tmp_path: Path, named: str
) -> None:
    other = changed(bundle, tmp_path / "other", CHANGES[named])
    before = sorted(journal(begun).iterdir())
    result = run("embed", other, images, "-o", begun, "--resume")
    assert (result.exit_code, begun.exists()) == (2, False)
    assert named in result.stderr
    assert "run without --resume to start again" in result.stderr
    assert sorted(journal(begun).iterdir()) == before, "nothing is lost"
    assert run("embed", bundle, images, "-o", begun, "--resume").exit_code == 0
    complete = run("embed", other, images, "-o", begun, "--resume")
    assert complete.exit_code == 2
    assert complete_but(complete).split(",")[0] == named.split(".")[0].split(" ")[0]
    anew = run("embed", other, images, "-o", begun, "--resume", "--force")
    assert anew.exit_code == 0
    with np.load(begun) as arrays:
        np.testing.assert_allclose(arrays["embedding"], naflex_deploy.load(other).embed(ordered(images)), atol=1e-5)


@pytest.mark.parametrize("named", SETTINGS)
def test_other_settings_do_not_continue_a_run(run: Run, bundle: Path, images: Path, begun: Path, named: str) -> None:
    other = ("embed", bundle, images, "-o", begun, "--resume", "--set", SETTINGS[named])
    result = run(*other)
    assert result.exit_code == 2
    assert named in result.stderr
    assert run("embed", bundle, images, "-o", begun, "--resume").exit_code == 0
    complete = run(*other)
    assert (complete.exit_code, complete_but(complete)) == (2, named.partition(".")[0])


def complete_but(result: Result) -> str:
    """The parts of the key that a complete output does not share."""
    return result.stderr.partition("is complete, but was made with something else: ")[2].splitlines()[0]


@pytest.mark.parametrize(
    ("named", "module", "attribute", "value"),
    [
        ("naflex-deploy was", key_module, "__version__", "9.9"),
        ("readers.pillow was", versions_module, "version", lambda package: "9.9"),
        ("backend was", key_module, "executed_by", lambda backend: SimpleNamespace(runtime="onnxruntime 9.9")),
    ],
)
def test_other_versions_do_not_continue_a_run(
    run: Run,
    bundle: Path,
    images: Path,
    begun: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: str,
    module: object,
    attribute: str,
    value: object,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, attribute, value)
        result = run("embed", bundle, images, "-o", begun, "--resume")
    assert result.exit_code == 2
    assert named in result.stderr
    assert run("embed", bundle, images, "-o", begun, "--resume").exit_code == 0
    monkeypatch.setattr(module, attribute, value)
    complete = run("embed", bundle, images, "-o", begun, "--resume")
    assert (complete.exit_code, complete_but(complete)) == (2, named.split(".")[0].removesuffix(" was"))


def ordered(images: Path) -> list[Path]:
    return [images / name for name in ("a.png", "b.jpg", "c.bmp", "deeper/d.webp", "e.tiff")]


@pytest.mark.parametrize("change", ["other content", "one more", "one less"])
@pytest.mark.parametrize("suffix", ["npz", "jsonl", "parquet"])
def test_a_complete_output_of_other_inputs_is_named(
    run: Run, bundle: Path, images: Path, tmp_path: Path, suffix: str, change: str
) -> None:
    output = tmp_path / f"out.{suffix}"
    (images / "bad.png").write_bytes(b"no image")
    assert run("embed", bundle, images, "-o", output).exit_code == 6
    again = run("embed", bundle, images, "-o", output, "--resume")
    assert (again.exit_code, "is complete already" in again.stderr) == (0, True), "also with a bad input"
    if change == "one less":
        (images / "c.bmp").unlink()
    else:
        shutil.copy(images / "b.jpg", images / ("a.png" if change == "other content" else "z.jpg"))
    result = run("embed", bundle, images, "-o", output, "--resume")
    assert (result.exit_code, "made with something else: inputs" in result.stderr) == (2, True)


def test_an_output_that_does_not_say_what_made_it_is_not_taken_for_complete(
    run: Run, bundle: Path, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.npz"
    np.savez(output, embeddings=np.zeros((1, 32), np.float32))
    result = run("embed", bundle, images, "-o", output, "--resume")
    assert (result.exit_code, "does not say what it was made with" in result.stderr) == (2, True)
    output.write_bytes(b"PK\x03\x04 cut")
    result = run("embed", bundle, images, "-o", output, "--resume")
    assert (result.exit_code, "is damaged" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("key", b"{}", "an earlier version wrote it"),
        ("key.json", None, "or its key is lost"),
        ("key.json", b'{"format": 3, "ke', "key.json is damaged"),
        ("key.json", b"", "key.json is damaged"),
        ("key.json", b'{"format": 4, "key": {}}', "expected a journal of format 3, found 4"),
    ],
)
def test_a_journal_without_its_key_is_refused_and_left_alone(
    run: Run, bundle: Path, images: Path, begun: Path, file: str, content: bytes | None, named: str
) -> None:
    if file == "key":  # as versions before the key was a document wrote it
        (journal(begun) / "key.json").unlink()
    if content is None:
        (journal(begun) / file).unlink()
    else:
        (journal(begun) / file).write_bytes(content)
    rows = (journal(begun) / "rows.jsonl").read_bytes()
    result = run("embed", bundle, images, "-o", begun, "--resume")
    assert (result.exit_code, named in result.stderr) == (2, True), result.stderr
    assert (journal(begun) / "rows.jsonl").read_bytes() == rows


def test_a_run_that_was_killed_before_it_had_a_key_is_resumed(
    run: Run, bundle: Path, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.npz"
    journal(output).mkdir()
    (journal(output) / ".out.npz.partial-0123456789abcdef").write_text('{"format"')
    assert run("embed", bundle, images, "-o", output, "--resume").exit_code == 0
    assert not journal(output).exists()


def cut(name: str, share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        size = (folder / name).stat().st_size
        os.truncate(folder / name, int(size * share))

    return change


def zeros(name: str, share: float) -> Callable[[Path], None]:
    """As a power cut leaves a part of a file that was never written."""

    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        start = int(len(content) * share)
        content[start : start + 40] = bytes(len(content[start : start + 40]))
        (folder / name).write_bytes(content)

    return change


def another_score(folder: Path) -> None:
    """A row that says something else in proper JSON."""
    lines = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    lines[2] = re.sub(r'"score": 0\.\d', lambda found: '"score": 0.' + str((int(found[0][-1]) + 1) % 10), lines[2])
    (folder / "rows.jsonl").write_text("".join(lines))


DAMAGES = {
    "another score": another_score,
    **{f"rows cut at {share}": cut("rows.jsonl", share) for share in (0, 0.01, 0.3, 0.5, 0.77, 0.999)},
    **{f"vectors cut at {share}": cut("vectors.f32", share) for share in (0, 0.4, 0.999)},
    **{f"zeros in rows at {share}": zeros("rows.jsonl", share) for share in (0, 0.5, 0.98)},
    **{f"zeros in vectors at {share}": zeros("vectors.f32", share) for share in (0, 0.45, 0.95)},
    "no rows": lambda folder: (folder / "rows.jsonl").unlink(),
    "no vectors": lambda folder: (folder / "vectors.f32").unlink(),
    "vectors without rows": lambda folder: (folder / "vectors.f32").open("ab").write(bytes(999)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_loses_nothing(
    run: Run, bundle: Path, images: Path, begun: Path, expected: np.ndarray, damage: str
) -> None:
    DAMAGES[damage](journal(begun))
    result = run("embed", bundle, images, "-o", begun, "--resume")
    assert result.exit_code == 0, result.stderr
    assert ("damaged row" in result.stderr) == damage.startswith(("zeros", "vectors cut", "no vectors", "another"))
    with np.load(begun) as arrays:
        np.testing.assert_allclose(arrays["embedding"], expected, atol=1e-5)
    assert not journal(begun).exists()


def test_tokens_that_are_lost_are_written_again(run: Run, bundle: Path, images: Path, tmp_path: Path) -> None:
    output, folder = tmp_path / "out.jsonl", tmp_path / "tokens"
    arguments = ("embed", bundle, images, "-o", output, "--tokens", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "finish", lambda self, order, provenance: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*arguments)
    files = sorted(folder.iterdir())
    files[0].unlink()
    os.truncate(files[1], 100)
    content = bytearray(files[2].read_bytes())
    content[-100:] = bytes(100)
    files[2].write_bytes(content)
    assert run(*arguments, "--resume").exit_code == 0
    expected = {
        str(path): tokens
        for path, tokens in zip(
            ordered(images)[:4], naflex_deploy.load(bundle).tokens(ordered(images)[:4]), strict=True
        )
    }
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == 6
    for row in rows[:4]:
        np.testing.assert_allclose(np.load(folder / row["tokens"]), expected[row["path"]], atol=1e-5)
    assert sorted(folder.iterdir()) == files


def test_previews_that_are_missing_are_drawn(run: Run, bundle: Path, images: Path, tmp_path: Path) -> None:
    output, folder = tmp_path / "out.npz", tmp_path / "previews"
    arguments = ("embed", bundle, images, "-o", output, "--preview", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "finish", lambda self, order, provenance: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*arguments)
    drawn = sorted(folder.iterdir())
    assert len(drawn) == 6, "before the output is there"
    drawn[1].unlink()
    drawn[5].unlink()
    result = run(*arguments, "--resume", "--json")
    assert (result.exit_code, json.loads(result.stdout)["images"]) == (0, 2)
    assert sorted(folder.iterdir()) == drawn
    with np.load(output) as arrays:
        np.testing.assert_allclose(arrays["embedding"], naflex_deploy.load(bundle).embed(ordered(images)), atol=1e-5)


def test_places_that_no_run_could_finish_with_are_refused_at_once(
    run: Run, bundle: Path, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.npz"
    inside = run("embed", bundle, images, "-o", output, "--preview", images / "deeper" / "previews")
    assert (inside.exit_code, "whose images are embedded" in inside.stderr) == (2, True)
    output.mkdir()
    (output / "thesis").touch()
    for flag in ([], ["--force"], ["--resume"]):
        result = run("embed", bundle, images, "-o", output, *flag)
        assert (result.exit_code, (output / "thesis").exists()) == (2, True)
        assert result.stderr.count("error: ") == 1
    assert "is a directory, expected the name of a file" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out.npz"]


def test_a_second_run_is_refused_by_name_and_may_wait(run: Run, bundle: Path, images: Path, tmp_path: Path) -> None:
    output, lock = tmp_path / "out.npz", tmp_path / ".out.npz.lock"
    lock.write_text(json.dumps({"host": "node-7", "process": 1, "since": "2026-01-01T00:00:00Z"}))
    with lock.open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        result = run("embed", bundle, images, "-o", output)
        assert result.exit_code == 2
        assert f"{output} is being written by process 1 on 'node-7' since 2026-01-01T00:00:00Z" in result.stderr
    assert run("embed", bundle, images, "-o", output, "--wait").exit_code == 0


def test_runs_of_different_outputs_share_no_folder_of_tokens_at_once(
    run: Run, bundle: Path, images: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "tokens"
    folder.mkdir()
    with (folder / ".tokens.lock").open("w") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        result = run("embed", bundle, images, "-o", tmp_path / "out.npz", "--tokens", folder)
    assert (result.exit_code, "is being written by another process" in result.stderr) == (2, True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("in_memory", [2**24, 0], ids=["in memory", "large"])
def test_a_file_that_is_replaced_while_it_is_read_has_the_digest_of_its_vector(
    run: Run, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    """Its content changes as soon as its digest was taken."""
    monkeypatch.setattr(contents_module, "IN_MEMORY", in_memory)
    rng = np.random.default_rng(0)
    contents = [tmp_path / f"{number}.png" for number in range(2)]
    for path in contents:
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    target = tmp_path / "in" / "target.png"
    target.parent.mkdir()
    shutil.copy(contents[0], target)
    read_once = contents_module.read_once

    def replacing(item: Any) -> Any:
        content = read_once(item)
        shutil.copy(contents[1], tmp_path / "new")
        (tmp_path / "new").rename(target)
        return content

    monkeypatch.setattr("naflex_deploy.runtime.embedding.run.read_once", replacing)
    result = run("embed", bundle, target, "-o", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as arrays:
        digests, vectors = arrays["sha256"].tolist(), arrays["embedding"]
    if in_memory:
        assert (result.exit_code, digests) == (0, [FileEntry.of(contents[0]).sha256])
        np.testing.assert_allclose(vectors, naflex_deploy.load(bundle).embed(contents[:1]), atol=1e-5)
    else:
        assert (result.exit_code, digests) == (6, [])
        assert "was changed while it was read" in result.stderr
