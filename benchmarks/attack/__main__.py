"""Attack the server, readers, bundles and outputs for so many minutes, and print what was found as tables.

    python -m benchmarks.attack --minutes 60                       everything in turn, at least once
    python -m benchmarks.attack --minutes 2 --only json slow --bundle build/photo
    python -m benchmarks.attack --minutes 30 --only readers --seed 100 --record mutants.jsonl
    python -m benchmarks.attack --minutes 0 --only --record *.jsonl --write    the tables of earlier runs, in the docs

Kills and power cuts need strace, and full disks the right to mount file systems; each says where it is left out. The
soak is a command of its own: ``python -m benchmarks.attack.soak``. The OpenAPI document is attacked by Schemathesis in
``make integrations``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from benchmarks.attack.parts import MUTANTS, PARTS, SECONDS, on_server
from benchmarks.attack.result import keep, kept
from benchmarks.attack.server import ATTACKS
from benchmarks.attack.tables import tables, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0, help="Of the first turn; each turn has the next.")
    parser.add_argument("--only", nargs="*", choices=PARTS, help="Default: everything.")
    parser.add_argument(
        "--bundle", type=Path, help="Whose engine a server has that is attacked. Default: one that sleeps."
    )
    parser.add_argument("--record", type=Path, nargs="*", default=[], help="Results are kept in the first.")
    parser.add_argument("--write", action="store_true", help="Write the tables into docs/reliability.md.")
    options = parser.parse_args()
    chosen = list(PARTS) if options.only is None else options.only
    results = kept(path for path in options.record if path.exists())
    end, turn, failures = time.monotonic() + 60 * options.minutes, 0, []
    print(f"attacks of {SECONDS:g} s on the server; {MUTANTS:,} mutants a seed", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        while chosen and (turn == 0 or time.monotonic() < end):
            for name in chosen:
                if turn and time.monotonic() >= end:
                    break
                part = partial(on_server, name, options.bundle) if name in ATTACKS else PARTS[name]
                result = part(options.seed + turn, Path(folder))
                results.append(result)
                if options.record:
                    keep(options.record[0], result)
                print(f"{name}, seed {result.seed}: {len(result.failures)} failures", flush=True)
                failures += [f"{name}, seed {result.seed}: {what}" for what in result.failures]
            turn += 1
    found = tables(results)
    print(f"\n{found}\n\n" + ("\n".join(failures) or "no failures"))
    if options.write:
        write(found)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
