"""naflex-deploy verify"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from naflex_deploy.cli.terminal import (
    describe_decisions,
    err,
    json_option,
    out,
    print_json,
    print_table,
    reports_errors,
    steps,
)
from naflex_deploy.core.errors import GateError, IncompatibleError


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--signature",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="First check that the owner of this public key signed it.",
)
@json_option
@reports_errors
def command(bundle: Path, signature: Path | None, as_json: bool) -> None:
    """Check a bundle on this machine: every digest, and every engine that runs here on the golden packs.

    Needs no torch and no network. Exits 3 where an engine misses its gate, 4 where none can run.
    """
    from naflex_deploy.runtime.bundle.verify import verify

    with steps() as report:
        report(f"verifying {bundle}")
        verification = verify(bundle, signature)
    if as_json:
        print_json(
            "verify",
            passed=verification.passed,
            signed=signature is not None,
            gates={name: gate.model_dump() for name, gate in verification.gates.items()},
            report=str(verification.report) if verification.report else None,
        )
    else:
        print_table(
            "",
            ["variant", "gate", "min cosine", "max error", "executed on", ""],
            [
                [
                    name,
                    gate.status,
                    "-" if gate.min_cosine is None else f"{gate.min_cosine:.6f}",
                    "-" if gate.max_error is None else f"{gate.max_error:.1e}",
                    gate.executed.cpu if gate.executed else "-",
                    gate.reason,
                ]
                for name, gate in verification.gates.items()
            ],
        )
        for name, gate in verification.gates.items():
            if decisions := describe_decisions(gate):
                out.print(f"{name}: {decisions}")
        where = verification.report or "not written: the bundle is read-only"
        if signature is not None:
            out.print(f"signed with the key of {signature}")
        out.print(f"every file matches its digest; hardware report: {where}")
    failed = [name for name, gate in verification.gates.items() if gate.status == "failed"]
    if failed:
        err.print(f"[bold red]error:[/] {', '.join(failed)} missed the gate")
        sys.exit(GateError.code)
    if not verification.passed:
        err.print("[bold red]error:[/] no variant can run on this machine")
        sys.exit(IncompatibleError.code)
