"""naflex-deploy bench"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from naflex_deploy.bench.compare.baselines import BASELINES
from naflex_deploy.bench.compare.compare import gate
from naflex_deploy.bench.load.measure import MODES
from naflex_deploy.bench.load.mixes import DISTRIBUTIONS
from naflex_deploy.bench.report.figures import read_run, write_csv
from naflex_deploy.bench.report.report import write_page
from naflex_deploy.bench.report.tables import tables
from naflex_deploy.bench.run import Options, run
from naflex_deploy.cli.api_keys import read_keys
from naflex_deploy.cli.progress import Progress
from naflex_deploy.cli.terminal import (
    Amount,
    err,
    json_option,
    out,
    path_option,
    print_error,
    print_json,
    print_table,
    reports_errors,
    wait_option,
)
from naflex_deploy.core.errors import ImageError, UsageError
from naflex_deploy.core.files import refuse_existing, reserved


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("second", metavar="[BUNDLE2]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--mix",
    metavar="NAME",
    help=f"Generate images: {', '.join(DISTRIBUTIONS)}. Default: documents for the profile doc-ocr, photos for others.",
)
@path_option(
    "--sizes", metavar="FILE|DIR", help="Use the sizes in a CSV file of w,h lines, or the images in a directory."
)
@click.option(
    "--count", type=click.IntRange(1), metavar="N", default=32, show_default=True, help="Number of images in the mix."
)
@click.option(
    "--mode",
    "modes",
    type=click.Choice(MODES),
    multiple=True,
    help="Measure only this. Repeatable. Default: everything, or nothing but the comparison.",
)
@click.option(
    "--rate",
    "rates",
    type=Amount(),
    metavar="R",
    multiple=True,
    help="Arrival rate of the open loop in images/s. Repeatable. Default: a range of rates around the throughput.",
)
@click.option(
    "--slo",
    type=Amount(),
    metavar="MS",
    help="Latency objective of the open loop in milliseconds, measured without and with it as the queue's goal. "
    "Default: 5 times the median of a single image.",
)
@click.option("--url", help="Measure a running server of this bundle instead of loading the bundle.")
@click.option("--model", metavar="NAME", help="Name of the server's model. Default: that of the bundle's directory.")
@path_option(
    "--api-keys", metavar="FILE", help="File with the server's API keys; the first one is sent. Default: no key."
)
@click.option("--baseline", type=click.Choice(BASELINES), help="Compare with another way of using the same engine.")
@click.option("--ablate", is_flag=True, help="Compare several budgets with a single one, and shrink-only with fill.")
@click.option(
    "--fail-below",
    type=Amount(zero=True),
    metavar="R",
    help="Exit with code 5 if the throughput is below R times that of the other.",
)
@click.option(
    "--variant", metavar="NAME", help="Use this variant of the bundles. Default: the first one that runs here."
)
@click.option(
    "--seconds",
    type=Amount(),
    metavar="S",
    default=10.0,
    show_default=True,
    help="Maximum seconds per figure; a comparison may take six times as long.",
)
@click.option(
    "--width",
    type=Amount(),
    metavar="SHARE",
    default=0.05,
    show_default=True,
    help="Stop once the confidence interval is this narrow, relative to the median.",
)
@click.option(
    "--seed",
    type=click.IntRange(0),
    metavar="N",
    default=0,
    show_default=True,
    help="Seed of sizes, order and arrivals.",
)
@path_option(
    "-o", "--output", metavar="FILE", help="Write the report as one HTML file, and its figures as CSV beside it."
)
@path_option(
    "--beside",
    "beside",
    metavar="FILE",
    multiple=True,
    help="Show an earlier run in the report too, from its report or its --json document. Repeatable.",
)
@click.option("--force", is_flag=True, help="Replace an existing output.")
@wait_option
@json_option
@reports_errors
def command(
    slo: float | None,
    api_keys: Path | None,
    fail_below: float | None,
    output: Path | None,
    beside: tuple[Path, ...],
    force: bool,
    as_json: bool,
    **values: Any,
) -> None:
    """Measure a bundle: latency, throughput, latency under load, and where tokens and time go.

    \b
    naflex-deploy bench build/photo --sizes photos/
    naflex-deploy bench build/photo build/photo-before --fail-below 0.98

    With BUNDLE2, --baseline or --ablate, it compares instead: both run in turns, and ratios come with intervals.
    """
    options = Options(slo=slo / 1e3 if slo else None, api_key=read_keys(api_keys)[0] if api_keys else "", **values)
    if fail_below is not None and not (options.second or options.baseline):
        raise UsageError("--fail-below has nothing to compare with", hint="name a second bundle, or pass --baseline")
    if beside and output is None:
        raise UsageError("--beside is shown in a report, which was not asked for", hint="name it with -o report.html")
    runs = [read_run(path) for path in beside]
    figures = _beside(output, force=force) if output is not None else None
    with reserved(output, force=force) if output is not None else nullcontext() as lock:
        with Progress("steps") as progress:
            outcome = run(options, progress.show)
        for result in outcome.rejected:
            if result.error:
                print_error(result.error)
        if as_json:
            print_json("bench", **outcome.document)
        else:
            _print(outcome.document)
        if output is not None and figures is not None:
            write_page(outcome.document, output, lock, runs)
            write_csv(outcome.document, figures)
            err.print(f"[bold green]wrote[/] {output} and {figures}")
    if fail_below is not None:
        gate(outcome.comparisons[0].throughput, fail_below)
    if outcome.rejected:
        sys.exit(ImageError.code)


def _beside(output: Path, *, force: bool) -> Path:
    """The CSV file beside a report."""
    figures = output.with_suffix(".csv")
    if figures == output:
        raise UsageError(f"-o {output}: its figures go to a .csv file beside it", hint="name the report .html")
    refuse_existing(figures, force=force)
    return figures


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
            f"[bold yellow]warning:[/] figures are not reliable, because other programs run (load average {load:.1f})"
        )
    for table in tables(document):
        print_table(table.title, list(table.columns), [list(row) for row in table.rows])
    if document["peak_memory_bytes"]:
        out.print(f"\npeak memory {document['peak_memory_bytes'] / 1e6:,.0f} MB")
