"""naflex-deploy bench"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from naflex_deploy.bench.compare.baselines import BASELINES
from naflex_deploy.bench.compare.compare import gate
from naflex_deploy.bench.load.measure import MODES
from naflex_deploy.bench.load.mixes import DISTRIBUTIONS
from naflex_deploy.bench.report.report import write_page
from naflex_deploy.bench.report.tables import tables
from naflex_deploy.bench.run import Options, run
from naflex_deploy.cli.terminal import (
    Amount,
    err,
    json_option,
    out,
    print_error,
    print_json,
    print_table,
    reports_errors,
    steps,
    wait_option,
)
from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.core.files import refuse_existing


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("second", metavar="[BUNDLE2]", required=False, type=click.Path(path_type=Path))
@click.option("--mix", metavar="NAME", help=f"Made-up images: {', '.join(DISTRIBUTIONS)}. Default: photos.")
@click.option("--sizes", type=click.Path(path_type=Path), metavar="FILE|DIR", help="A CSV of w,h lines, or images.")
@click.option("--count", type=click.IntRange(1), metavar="N", default=32, show_default=True, help="Images of the mix.")
@click.option("--mode", "modes", type=click.Choice(MODES), multiple=True, help="Measure this alone. Repeatable.")
@click.option(
    "--rate", "rates", type=Amount(), metavar="R", multiple=True, help="Images/s of the open loop. Repeatable."
)
@click.option(
    "--slo",
    type=Amount(),
    metavar="MS",
    help="Milliseconds within which an answer is good. Default: 5 medians of one image.",
)
@click.option("--url", help="Ask a running server of this bundle instead of loading it.")
@click.option(
    "--api-keys", type=click.Path(path_type=Path), metavar="FILE", help="File of the server's keys; the first is sent."
)
@click.option("--baseline", type=click.Choice(BASELINES), help="Compare with another way of using the same engine.")
@click.option("--ablate", is_flag=True, help="Compare several budgets with one, and shrink-only with fill.")
@click.option(
    "--fail-below", type=Amount(zero=True), metavar="R", help="Exit 5 where throughput is below R times the other's."
)
@click.option("--variant", metavar="NAME", help="Use this variant of the bundles.")
@click.option(
    "--seconds",
    type=Amount(),
    metavar="S",
    default=10.0,
    show_default=True,
    help="Longest time of a figure; six times of a comparison.",
)
@click.option(
    "--width",
    type=Amount(),
    metavar="SHARE",
    default=0.05,
    show_default=True,
    help="Relative width of an interval at which to stop.",
)
@click.option(
    "--seed", type=click.IntRange(0), metavar="N", default=0, show_default=True, help="Of sizes, order and arrivals."
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the report as one HTML file."
)
@click.option("--force", is_flag=True, help="Replace the output.")
@wait_option
@json_option
@reports_errors
def command(
    slo: float | None,
    api_keys: Path | None,
    fail_below: float | None,
    output: Path | None,
    force: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Measure a bundle: latency, throughput, latency against load, where tokens and time go.

    \b
    naflex-deploy bench build/photo --sizes photos/
    naflex-deploy bench build/photo build/photo-before --fail-below 0.98

    With BUNDLE2, --baseline or --ablate, compare instead: both take turns, and ratios come with an interval.
    """
    options = Options(slo=slo / 1e3 if slo else None, api_key=_key(api_keys) if api_keys else "", **values)
    if fail_below is not None and not (options.second or options.baseline):
        raise UsageError("--fail-below compares with nothing", hint="name a second bundle, or pass --baseline")
    if output is not None:
        refuse_existing(output, force=force)
    with steps() as step:
        outcome = run(options, step)
    for result in outcome.rejected:
        if result.error:
            print_error(result.error)
    if as_json:
        print_json("bench", **outcome.document)
    else:
        _print(outcome.document)
    if output is not None:
        write_page(outcome.document, output)
        err.print(f"[bold green]wrote[/] {output}")
    if fail_below is not None:
        gate(outcome.comparisons[0].throughput, fail_below)
    if outcome.rejected:
        sys.exit(ImageError.code)


def _print(document: dict[str, Any]) -> None:
    provenance = document["provenance"]
    executed = provenance["executed"]
    out.print(
        f"[bold]{document['bundle']}[/]: {provenance['variant']['name']}, profile {provenance['profile']['name']}"
    )
    out.print(f"executed on {executed['gpu'] or executed['cpu']}; {executed['runtime']}; {executed['system']}")
    if provenance["machine_was_busy"]:
        load = provenance["load_average"]
        err.print(
            f"[bold yellow]warning:[/] other programs are running (load average {load:.1f}): do not trust figures"
        )
    for table in tables(document):
        print_table(table.title, list(table.columns), [list(row) for row in table.rows])
    if document["peak_memory_bytes"]:
        out.print(f"\npeak memory {document['peak_memory_bytes'] / 1e6:,.0f} MB")


def _key(path: Path) -> str:
    try:
        keys = path.read_text(encoding="utf-8").split()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="give a file with one key a line") from None
    if not keys:
        raise UsageError(f"{path}: expected a key, found none", hint="give a file with one key a line")
    return keys[0]
