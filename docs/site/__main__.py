"""Build the documentation site.

    python -m docs.site [-o build/site]

Every warning is an error, and a site with a problem does not take the place of the one that is there.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from docs.site.check import problems
from docs.site.pages import ROOT, BrokenLinks, gather


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "build" / "site")
    output: Path = parser.parse_args().output.resolve()
    source = output.with_name(f"{output.name}-source")
    shutil.rmtree(source, ignore_errors=True)
    try:
        gather(source)
    except BrokenLinks as error:
        print(error, file=sys.stderr)
        return 1
    config = source / "zensical.toml"
    built = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--config-file", config], cwd=source)
    if built.returncode:
        return built.returncode
    found = problems(source / "site")
    print(*found, sep="\n", file=sys.stderr, end="\n" if found else "")
    if found:
        return 1
    shutil.rmtree(output, ignore_errors=True)
    (source / "site").rename(output)
    print(f"built {output}: {sum(1 for _ in output.rglob('*.html'))} pages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
