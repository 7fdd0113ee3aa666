"""Resolve the configuration: defaults < profile < --config < environment < --set < flags. Values keep their origin."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, cast

from naflex_deploy.core.errors import UsageError, nearest
from naflex_deploy.core.profile import Profile

ENVIRONMENT_PREFIX = "NAFLEX_DEPLOY_"

Values = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """A resolved profile, and the origin of the value at every dotted key."""

    profile: Profile
    origins: dict[str, str]


def builtin_profiles() -> dict[str, Traversable]:
    """The profiles that ship with the package, by name."""
    # An installed wheel carries them inside the package; a checkout keeps them at its top level.
    package = files("naflex_deploy")
    for folder in (package.joinpath("profiles"), package.joinpath("../profiles")):
        if folder.is_dir():
            return {
                entry.name.removesuffix(".toml"): entry
                for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
                if entry.name.endswith(".toml")
            }
    raise UsageError("the built-in profiles are missing from this installation", hint="reinstall naflex-deploy")


def resolve(
    profile: str | Path | Profile,
    *,
    config: Path | None = None,
    settings: str | Sequence[str] = (),
    overrides: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Merge every source of configuration into one validated profile.

    Args:
        profile: Name of a built-in profile, path of a TOML file, or the profile that a bundle was built with.
        config: A TOML file whose values override the profile's.
        settings: ``"a.b=value"`` strings. Values are TOML; a bare word is a string.
        overrides: Values of command-line flags by dotted key; ``None`` where a flag was not given.
        environment: Searched for ``NAFLEX_DEPLOY_SECTION__KEY`` variables. Default: that of the process.

    Raises:
        UsageError: The profile is unknown (the hint names the nearest one), a file cannot be read or is not valid
            TOML, or a value is invalid.
    """
    if isinstance(profile, Profile):
        layers = [("bundle", profile.model_dump(by_alias=True, exclude_none=True))]
        name = "bundle"
    else:
        name = str(profile)
        layers = _profile_layers(name, {})
    if config is not None:
        layers.append((str(config), _read(config, str(config))))
    layers += _environment_layers(os.environ if environment is None else environment)
    layers += [("--set", _setting(setting)[1]) for setting in _all(settings)]
    for key, value in (overrides or {}).items():
        if value is not None:
            flag = key.rpartition(".")[2]
            # A flag is named after one entry of the list that it sets: --target sets targets.
            layers.append((f"--{flag.removesuffix('s') if isinstance(value, list) else flag}", _nested(key, value)))

    merged: Values = {}
    origins: dict[str, str] = {}
    for origin, values in layers:
        _merge(merged, values, origin, origins)
    resolved = Profile.parse(merged, source=lambda path: _origin_of(path, origins, name))
    for key in leaves(resolved.model_dump(by_alias=True)):
        origins.setdefault(key, "default")
    return Config(resolved, dict(sorted(origins.items())))


ADJUSTABLE = ("image", "video", "dicom", "volume", "ros", "limits")
"""Sections that say how inputs are read. No engine depends on them, so they can change after the build."""


def adjust(profile: Profile, settings: str | Sequence[str]) -> Profile:
    """Change how a bundle reads its inputs.

    Args:
        profile: The profile that the bundle was built with.
        settings: ``"a.b=value"`` strings as for `resolve`, for the sections in `ADJUSTABLE`.

    Raises:
        UsageError: A setting belongs to another section, or is unknown or invalid.
    """
    values = profile.model_dump(by_alias=True)
    for setting in _all(settings):
        key, nested = _setting(setting)
        if key.partition(".")[0] not in ADJUSTABLE:
            raise UsageError(
                f"{setting}: expected a key of {' or '.join(ADJUSTABLE)}; other sections are part of the build",
                hint="build the bundle again with this setting",
            )
        _merge(values, nested, "settings", {})
    return Profile.parse(values, source=lambda path: "settings")


def _all(settings: str | Sequence[str]) -> Sequence[str]:
    return (settings,) if isinstance(settings, str) else settings


def _setting(text: str) -> tuple[str, Values]:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UsageError(f"a setting has the form a.b=value, found '{text}'", hint="for example image.tokens=576")
    return key.strip(), _nested(key.strip(), _value(value))


def _profile_layers(name: str, above: dict[Path, str]) -> list[tuple[str, Values]]:
    """The layers of a profile and of all that it extends, base first; ``above`` holds the profiles that extend it."""
    path = Path(name)
    if path.resolve() in above:
        chain = " -> ".join([*above.values(), name])
        raise UsageError(f"profile '{name}' extends itself: {chain}", hint="break the cycle")
    builtin = builtin_profiles()
    source: Traversable | Path
    if name in builtin:
        source, origin = builtin[name], f"profile {name}"
    elif path.suffix == ".toml" or path.exists():
        source, origin = path, str(path)
    else:
        raise UsageError(f"no profile named '{name}'", hint=nearest(name, builtin))
    values = _read(source, origin)
    base = values.pop("extends", None)
    if base is None:
        return [(origin, values)]
    if not isinstance(base, str):
        raise UsageError(f"{origin}: extends: expected the name or path of a profile, found {base!r}")
    if base.endswith(".toml"):
        base = str(path.parent / base)
    return [*_profile_layers(base, {**above, path.resolve(): name}), (origin, values)]


def _read(source: Traversable | Path, origin: str) -> Values:
    try:
        return tomllib.loads(source.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(
            f"cannot read {origin}: {error.strerror}", hint="give a TOML file or a profile's name"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{origin} is not valid TOML: {error}", hint="correct that line") from None


def _environment_layers(environment: Mapping[str, str]) -> list[tuple[str, Values]]:
    return [
        (name, _nested(name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."), _value(text)))
        for name, text in sorted(environment.items())
        if name.startswith(ENVIRONMENT_PREFIX)
    ]


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nested(key: str, value: object) -> Values:
    for part in reversed(key.split(".")):
        value = {part: value}
    return cast(Values, value)


def _merge(into: Values, values: Values, origin: str, origins: dict[str, str], path: str = "") -> None:
    for key, value in values.items():
        full = f"{path}{key}"
        if isinstance(value, dict) and isinstance(into.get(key, {}), dict):
            _merge(into.setdefault(key, {}), value, origin, origins, f"{full}.")
        else:
            into[key] = value
            origins[full] = origin


def leaves(values: Values, path: str = "") -> Values:
    """A nested mapping as a flat one with dotted keys."""
    flat: Values = {}
    for key, value in values.items():
        flat |= leaves(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return flat


def _origin_of(path: str, origins: Mapping[str, str], fallback: str) -> str:
    """Where the value at a path, or the section that holds it, was set."""
    while path:
        for key, origin in reversed(list(origins.items())):
            if key == path or key.startswith(f"{path}."):
                return origin
        path = path.rpartition(".")[0]
    return fallback
