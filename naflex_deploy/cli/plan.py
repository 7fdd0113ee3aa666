"""naflex-deploy plan"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import click
import tomli_w

from naflex_deploy.bench.compare.contenders import TOGETHER
from naflex_deploy.bench.compare.statistics import Interval
from naflex_deploy.bench.cost.tuning import WIDTH, Tuning, tune
from naflex_deploy.bench.report.report import comparison_json, histogram_json
from naflex_deploy.bench.report.tables import number, spread
from naflex_deploy.cli.configuration import (
    chosen_profile,
    model_option,
    model_or_demo,
    profile_options,
    resolve_options,
)
from naflex_deploy.cli.terminal import (
    Amount,
    err,
    json_option,
    listed,
    out,
    path_option,
    print_json,
    print_table,
    reports_errors,
    steps,
    wait_option,
)
from naflex_deploy.core.config import Config, leaves
from naflex_deploy.core.errors import UsageError, needs_extra
from naflex_deploy.core.files import new_file, reserved
from naflex_deploy.core.profile import Profile
from naflex_deploy.runtime.backends.openvino.backend import opportunity

RELIABLE = 0.10
"""Maximum relative error of predictions, on budgets held out of the fit, that needs no warning."""


@click.command()
@profile_options
@model_option("Default: none, so memory is unknown; --tune then uses demo.")
@click.option(
    "--tune", "tuning", is_flag=True, help="Choose budgets for --sizes from measured costs of packs on this machine."
)
@path_option("--sizes", metavar="FILE|DIR", help="CSV file of w,h lines, or a directory of images, to tune for.")
@path_option("--bundle", metavar="DIR", help="Tune on this bundle. Default: build one in a temporary directory.")
@path_option("-o", "--output", metavar="FILE", help="Tuned profile to write. Default: PROFILE-tuned.toml.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@click.option(
    "--seconds",
    type=Amount(),
    metavar="S",
    default=20.0,
    show_default=True,
    help="Seconds that tuning may take, including the build of a bundle, which leaves at least half of them.",
)
@wait_option
@json_option
@reports_errors
def command(
    profile: str | None,
    config: Path | None,
    settings: tuple[str, ...],
    backend: str | None,
    precision: str | None,
    target: str | None,
    model: str | None,
    tuning: bool,
    sizes: Path | None,
    bundle: Path | None,
    output: Path | None,
    force: bool,
    seconds: float,
    as_json: bool,
) -> None:
    """Show what build would do: tokens, budgets, variants, memory, and the origin of each value.

    \b
    naflex-deploy plan --profile doc-ocr --model hf:google/siglip2-base-patch16-naflex
    naflex-deploy plan --profile photo --tune --sizes photos/

    With --tune, it chooses budgets and images per pack for a distribution of sizes, and writes a profile.
    """
    resolved = resolve_options(chosen_profile(profile, model, bundle), config, settings, backend, precision, target)
    if tuning != (sizes is not None):
        raise UsageError(
            "--tune and --sizes go together",
            hint="for example --tune --sizes photos/, a directory of images or a file of w,h lines",
        )
    if sizes is None:
        _plan(resolved, model, as_json)
        return
    path = output or Path(f"{resolved.profile.name}-tuned.toml")
    with reserved(path, force=force) as lock:
        with tempfile.TemporaryDirectory(prefix="naflex-deploy-") as folder, steps() as step:
            found = _tune(resolved, model, sizes, bundle, Path(folder), seconds, step)
        text = tomli_w.dumps(found.profile.model_dump(by_alias=True, exclude_none=True))
        with new_file(path, lock) as partial:
            partial.write_text(text, encoding="utf-8")
    _print_tuning(found, path, as_json)


def _tune(
    config: Config,
    model: str | None,
    sizes: Path,
    bundle: Path | None,
    folder: Path,
    seconds: float,
    step: Callable[[str], None],
) -> Tuning:
    def build(profile: Profile) -> Path:
        with needs_extra("build"):
            from naflex_deploy.compiler.pipeline import build_bundle
        path = folder / profile.name
        build_bundle(Config(profile, config.origins), model_or_demo(model), path, report=step)
        return path

    begun = time.perf_counter()
    subject = bundle or build(config.profile)
    built = time.perf_counter() - begun
    left = max(seconds - built, seconds / 2)
    return tune(config.profile, sizes, subject, build, seconds=left, built=built, report=step)


def _print_tuning(found: Tuning, path: Path, as_json: bool) -> None:
    if as_json:
        print_json(
            "plan",
            tuned=str(path),
            before=asdict(found.before),
            after=asdict(found.after),
            cost_model=asdict(found.cost.model),
            held_out_error=found.cost.error,
            predicted_times_as_fast=found.predicted,
            measured=comparison_json(found.measured) if found.measured else None,
            histogram=histogram_json(found.lengths),
            rejected_sizes=found.rejected,
            seconds=round(found.spent, 1),
        )
        return
    before, after = asdict(found.before), asdict(found.after)
    print_table(
        "",
        ["packing", "now", "tuned"],
        [[name, listed(before[name] or None), listed(after[name] or None)] for name in before],
    )
    model = found.cost.model
    out.print(
        f"a pack costs {1e3 * model.call:.3f} ms, plus {1e3 * model.image:.3f} ms per image, "
        f"{1e6 * model.token:.3f} us per token and {1e9 * model.score:.3f} ns per unit of Σ L²; "
        f"the predictions are off by up to {found.cost.error:.1%} on held-out budgets"
    )
    if found.cost.error > RELIABLE:
        err.print(
            "[bold yellow]warning:[/] the predictions are unreliable: tune on a machine on which nothing else runs"
        )
    if found.rejected:
        out.print(f"left out of --sizes: {found.rejected} (documents, what is no image, what the profile refuses)")
    if found.after == found.before:
        out.print("nothing changed, and no gain to measure: the profile's packing is within 2 % of the fastest")
        out.print(f"ended after {found.spent:.0f} s: the rest of --seconds is for measuring a gain")
    elif found.measured is None:
        out.print(f"predicted: {found.predicted[TOGETHER]:.2f} times as fast, all images together")
        err.print(
            f"[bold yellow]warning:[/] there was no time to measure the gain: it takes about --seconds {found.enough}"
        )
    else:
        speeds = {ratio.workload: ratio.speed for ratio in found.measured.ratios}
        print_table(
            "times as fast as now",
            ["workload", "predicted", "measured"],
            [[name, number(found.predicted[name]), spread(asdict(speed))] for name, speed in speeds.items()],
        )
        known = max(speed.width for speed in speeds.values())
        out.print(
            f"ended after {found.spent:.0f} s: "
            + (f"the gain is known within {WIDTH:.0%}" if known <= WIDTH else "more --seconds narrow the intervals")
        )
        if said := doubt(found.measured.throughput.speed):
            err.print(f"[bold yellow]warning:[/] {said}")
    out.print(f"[bold green]wrote[/] {path}")


def doubt(speed: Interval) -> str:
    """What is to be said where a tuned profile is not surely faster.

    Args:
        speed: How many times as fast it was measured to be.
    """
    if speed.high < 1:
        return "in the measurement the tuned profile is slower: keep the one that you have"
    if speed.low <= 1:
        return "the measurement shows no gain, as its interval includes 1: allow more --seconds, or keep your profile"
    return ""


def _plan(config: Config, model: str | None, as_json: bool) -> None:
    with needs_extra("build"):
        from naflex_deploy.compiler.planning import plan
    planned = plan(config, model)
    if as_json:
        print_json("plan", **planned.to_json(), origins=config.origins)
        return
    out.print(f"[bold]{config.profile.name}[/]: {config.profile.description}")
    out.print(f"backend {planned.backend}, precision {planned.precision}, outputs {', '.join(planned.outputs)}")
    for name in planned.also:
        out.print(f"also {name}, for machines that cannot run the first")
    if note := opportunity():
        out.print(note, markup=False)
    out.print(f"images: {config.profile.image.fit}, at most {planned.image_tokens} tokens each")
    print_table(
        "packs",
        ["tokens a pack", f"images of {planned.image_tokens} tokens in it", "attention", "memory"],
        [[b.tokens, b.full_images, b.attention, _megabytes(b.memory_bytes)] for b in planned.budgets],
    )
    if planned.weights_bytes is None:
        out.print("memory is unknown without --model")
    else:
        out.print(f"weights take {_megabytes(planned.weights_bytes)}; memory is weights plus estimated activations")
    print_table(
        "pages scanned at 300 dpi",
        ["page", "images", "tokens", "seen at"],
        [[p.paper, p.images, p.tokens, f"{p.dpi} dpi" if p.images else "refused"] for p in planned.pages],
    )
    coarse = [page.paper for page in planned.pages if page.images and not page.readable]
    if coarse:
        out.print(
            f"[bold yellow]warning:[/] {', '.join(coarse)}: small print cannot be read below 100 dpi; "
            'for text, set image.oversize = "tiles"'
        )
    limit = config.profile.engine.memory_limit
    if limit and any((b.memory_bytes or 0) > limit for b in planned.budgets):
        out.print(f"[bold yellow]warning:[/] memory is above engine.memory_limit = {_megabytes(limit)}")
    values = leaves(config.profile.model_dump(by_alias=True))
    print_table(
        "settings",
        ["setting", "value", "from"],
        [[key, listed(values.get(key)), origin] for key, origin in config.origins.items()],
    )


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:,.0f} MB"
