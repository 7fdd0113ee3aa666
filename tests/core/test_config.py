"""The sources of configuration, and the messages when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from naflex_deploy.core.backends import FOLDERS
from naflex_deploy.core.config import adjust, builtin_profiles, resolve
from naflex_deploy.core.errors import UsageError
from naflex_deploy.core.profile import GateSection

BUILTIN = {"doc-ocr", "driving", "edge", "inspection", "medical", "photo", "video-frames", "vlm"}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.environ", {})
    monkeypatch.chdir(tmp_path)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_the_built_in_profiles_ship() -> None:
    assert set(builtin_profiles()) == BUILTIN


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_each_shipped_profile_is_valid_and_described(name: str) -> None:
    profile = resolve(name).profile
    assert profile.name == name
    assert profile.description
    assert profile.image_tokens("onnxruntime") <= profile.budgets("onnxruntime")[-1]


def test_each_source_goes_over_the_one_before_and_every_value_knows_its_origin(tmp_path: Path) -> None:
    keys = ["tokens", "fit", "oversize", "max_pixels"]
    profile = write(tmp_path / "p.toml", 'name = "p"\n[image]\ntokens = 11\nfit = "shrink-only"\noversize = "error"')
    over = write(tmp_path / "over.toml", '[image]\ntokens = 12\nfit = "pad-to-patch"\n[packing]\nmax_images = 1')
    environment = {"NAFLEX_DEPLOY_IMAGE__TOKENS": "13", "NAFLEX_DEPLOY_PACKING__MAX_IMAGES": "2", "HOME": "/"}
    settings = ["image.tokens=14", "packing.max_images=3", "packing.max_images=4"]

    def image_after(**sources: object) -> tuple[dict[str, object], dict[str, str]]:
        config = resolve(profile, **sources)  # type: ignore[arg-type]
        return {key: getattr(config.profile.image, key) for key in keys}, {
            key: config.origins[f"image.{key}"] for key in keys
        }

    values, origins = image_after()
    assert values == {"tokens": 11, "fit": "shrink-only", "oversize": "error", "max_pixels": 120_000_000}
    assert origins == {"tokens": str(profile), "fit": str(profile), "oversize": str(profile), "max_pixels": "default"}

    values, origins = image_after(config=over)
    assert (values["tokens"], values["fit"], values["oversize"]) == (12, "pad-to-patch", "error")
    assert origins == {"tokens": str(over), "fit": str(over), "oversize": str(profile), "max_pixels": "default"}

    values, origins = image_after(config=over, environment=environment)
    assert (values["tokens"], origins["tokens"]) == (13, "NAFLEX_DEPLOY_IMAGE__TOKENS")

    values, origins = image_after(config=over, environment=environment, settings=settings)
    assert (values["tokens"], origins["tokens"]) == (14, "--set")

    flags = {"image.tokens": 15, "image.fit": None}
    config = resolve(profile, config=over, environment=environment, settings=settings, overrides=flags)
    assert (config.profile.image.tokens, config.origins["image.tokens"]) == (15, "--tokens")
    assert (config.profile.image.fit, config.origins["image.fit"]) == ("pad-to-patch", str(over))
    assert (config.profile.packing.max_images, config.origins["packing.max_images"]) == (4, "--set")


def test_every_value_has_an_origin() -> None:
    config = resolve("edge")
    for section, fields in config.profile.model_dump(by_alias=True).items():
        if not isinstance(fields, dict):
            assert section in config.origins
    assert config.origins["engine.onnxruntime.budgets"] == "profile edge"
    assert config.origins["engine.precision"] == "default"


def test_the_process_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAFLEX_DEPLOY_ENGINE__ONNXRUNTIME__BUDGETS", "[300, 600]")
    monkeypatch.setenv("NAFLEX_DEPLOY_ENGINE__MEMORY_LIMIT", "1.5GiB")
    engine = resolve("photo").profile.engine
    assert (engine.onnxruntime.budgets, engine.memory_limit) == ([300, 600], 3 * 2**29)


def test_a_profile_extends_another_by_name(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.toml", 'extends = "photo"\nname = "mine"\n[packing]\nmax_images = 2')
    config = resolve(mine)
    base = resolve("photo").profile
    changed = base.model_copy(update={"name": "mine", "packing": base.packing.model_copy(update={"max_images": 2})})
    assert config.profile == changed
    assert config.origins["packing.max_images"] == str(mine)
    assert config.origins["packing.budgets"] == "profile photo"


def test_a_path_to_extend_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    write(tmp_path / "shared/base.toml", 'name = "base"\n[image]\ntokens = 9\nfit = "shrink-only"')
    write(tmp_path / "base.toml", 'name = "wrong"\n[image]\ntokens = 99')
    mine = write(tmp_path / "sites/mine.toml", 'extends = "../shared/base.toml"\n[image]\ntokens = 10')
    profile = resolve(mine).profile
    assert (profile.name, profile.image.tokens, profile.image.fit) == ("base", 10, "shrink-only")


@pytest.mark.parametrize(
    "chain",
    [
        {"a.toml": "a.toml"},
        {"a.toml": "b.toml", "b.toml": "a.toml"},
        {"a.toml": "x/../b.toml", "b.toml": "x/../x/../a.toml"},
    ],
    ids=["itself", "two", "spelled differently"],
)
def test_profiles_that_extend_each_other_are_refused(tmp_path: Path, chain: dict[str, str]) -> None:
    (tmp_path / "x").mkdir()
    for name, base in chain.items():
        write(tmp_path / name, f'name = "a"\nextends = "{base}"')
    with pytest.raises(UsageError, match=r"extends itself: .*a\.toml -> .*a\.toml") as caught:
        resolve(tmp_path / "a.toml")
    assert caught.value.hint == "break the cycle"


def refusal(*settings: str, profile: str | Path = "doc-ocr") -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve(profile, settings=settings)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("setting", "expected", "found"),
    [
        ("schema=2", "less than or equal to 1", "2"),
        ("name=A B", "lower-case letters, digits, '.', '_' and '-'", "'A B'"),
        ("description=3", "a valid string", "3"),
        ("outputs=[]", "a list of at least 1", "[]"),
        ("outputs=pooled", "a valid list", "'pooled'"),
        (
            "outputs=['tokens:-0']",
            "'pooled', 'tokens', 'tokens:-K' (the K-th block from the end), 'tokens:-K:norm'",
            None,
        ),
        ("outputs=['tokens', 'tokens']", "no value more than once", "['tokens', 'tokens']"),
        ("image=5", "a table", "5"),
        ("image.tokens=0", "greater than 0 or 'auto'", "0"),
        ("image.tokens=true", "a valid integer or 'auto'", "True"),
        ("image.tokens='576'", "a valid integer or 'auto'", "'576'"),
        ("image.fit=fil", "'fill', 'shrink-only', 'pad-to-patch', 'tiles' or 'model'", "'fil'"),
        ("image.oversize=drop", "'error', 'shrink' or 'tiles'", "'drop'"),
        ("image.multiple=0", "greater than 0", "0"),
        ("head.scores=logits", "'auto', 'softmax', 'sigmoid' or 'raw'", "'logits'"),
        ("head.threshold=1.5", "less than or equal to 1", "1.5"),
        ("head.thresholds={cat = -1.0}", "greater than or equal to 0", "-1.0"),
        ("image.max_pixels=1.5", "a valid integer", "1.5"),
        ("packing.budgets=[]", "a list of at least 1", "[]"),
        ("packing.budgets=[0, 5]", "greater than 0", "0"),
        ("packing.budgets=[512, 256]", "budgets in ascending order without repeats", "[512, 256]"),
        ("packing.max_images=0", "greater than 0", "0"),
        (
            "engine.backends=['cuda']",
            ", ".join(f"'{name}'" for name in [*FOLDERS][:-1]) + f" or '{[*FOLDERS][-1]}'",
            "'cuda'",
        ),
        ("engine.backends=['onnxruntime', 'onnxruntime']", "no value more than once", None),
        ("engine.precision=fp12", "'auto', 'fp32', 'fp16', 'bf16', 'int8' or 'fp8'", "'fp12'"),
        ("engine.memory_limit=lots", "a number of bytes such as '8GiB' or '512MB'", "'lots'"),
        ("engine.memory_limit=0B", "greater than 0", "'0B'"),
        ("engine.onnxruntime=3", "a table", "3"),
        ("engine.onnxruntime.budgets=[9, 9]", "budgets in ascending order without repeats", "[9, 9]"),
        ("engine.tensorrt.targets=['86']", "a GPU architecture such as 'sm89'", "'86'"),
        ("engine.tensorrt.l_buckets=x", "a valid list", "'x'"),
        ("gate.min_cosine=0", "greater than 0", "0"),
        ("gate.min_cosine=2", "less than or equal to 1", "2"),
        ("gate.min_cosine=nan", "less than or equal to 1", "nan"),
        ("calibration.samples=-1", "greater than 0", "-1"),
        ("calibration.method=max", "'minmax', 'percentile', 'entropy' or 'mse'", "'max'"),
    ],
)
def test_an_invalid_value_is_refused_with_its_path_what_is_allowed_and_what_was_found(
    setting: str, expected: str, found: str | None
) -> None:
    message = refusal(setting).message
    assert message.startswith(f"--set: {setting.partition('=')[0]}: expected {expected}")
    if found is not None:
        assert message.endswith(f", found {found}")


@pytest.mark.parametrize(
    ("setting", "unknown", "hint"),
    [
        ("imgae.tokens=3", "imgae", "did you mean 'image'?"),
        ("image.token=3", "image.token", "did you mean 'tokens'?"),
        ("engine.onnxruntime.budget=[3]", "engine.onnxruntime.budget", "did you mean 'budgets'?"),
        ("gate.zzz=1", "gate.zzz", f"known: {', '.join(sorted(GateSection.model_fields))}"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(setting: str, unknown: str, hint: str) -> None:
    error = refusal(setting)
    assert (error.message, error.hint) == (f"--set: {unknown}: unknown key", hint)


def test_a_wrong_value_is_blamed_on_the_source_that_set_it_last(tmp_path: Path) -> None:
    over = write(tmp_path / "over.toml", "[image]\ntokens = 0")
    with pytest.raises(UsageError) as caught:
        resolve("photo", config=over)
    assert caught.value.message.startswith(f"{over}: image.tokens: ")
    with pytest.raises(UsageError) as caught:
        resolve("photo", config=over, environment={"NAFLEX_DEPLOY_IMAGE__TOKENS": "many"})
    assert caught.value.message.startswith("NAFLEX_DEPLOY_IMAGE__TOKENS: image.tokens: ")


def test_an_image_that_no_pack_holds_is_refused() -> None:
    assert "image.tokens = 2000 exceeds the largest onnxruntime budget, 1024" in refusal("image.tokens=2000").message


def test_a_setting_without_a_value_is_refused() -> None:
    assert "a setting has the form a.b=value, found 'image.tokens'" in refusal("image.tokens").message


def test_an_unknown_profile_names_the_nearest() -> None:
    error = refusal(profile="doc_ocr")
    assert (error.message, error.hint) == ("no profile named 'doc_ocr'", "did you mean 'doc-ocr'?")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"image = [", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML"),
        (b"[image]\ntokens = 3", "name: expected a value, found none"),
        (b'name = "x"\nextends = 3', "extends: expected the name or path of a profile, found 3"),
        (b'name = "x"\nextends = "phot"', "no profile named 'phot'"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    assert problem in refusal(profile=path).message


def test_a_byte_order_mark_is_no_part_of_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "marked.toml"
    path.write_text('\ufeffname = "marked"\nextends = "photo"\n', encoding="utf-8")
    assert resolve(path).profile.name == "marked"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert f"cannot read {tmp_path}/no.toml: No such file" in refusal(profile=tmp_path / "no.toml").message
    assert f"cannot read {tmp_path}: Is a directory" in refusal(profile=tmp_path).message


def test_how_inputs_are_read_can_be_adjusted_after_the_build() -> None:
    built = resolve("doc-ocr").profile
    adjusted = adjust(built, ["image.dpi=200", "video.frames=scenes", "image.fit=tiles"])
    assert (adjusted.image.dpi, adjusted.video.frames, adjusted.image.fit) == (200, "scenes", "tiles")
    assert adjusted.model_copy(update={"image": built.image, "video": built.video}) == built
    assert adjust(built, []) == built
    for setting, message in (
        ("engine.precision=int8", "^engine.precision=int8: expected a key of image or video or dicom or volume or ros"),
        ("image.dpi=0", "image.dpi"),
        ("image.dip=200", "image.dip: unknown key"),
        ("image.tokens=99999", "exceeds the largest"),
        ("dpi", "a setting has the form a.b=value, found 'dpi'"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            adjust(built, [setting])
        assert "--" not in str(caught.value)  # A program that calls this has no options.
