#!/usr/bin/env bash
# Importing pydicom 3.0.0 asks the network for example files that its wheel lacks, and waits for each of them several times
# where there is no network. 3.0.1 asks for nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >asked.py <<'PYTHON'
import sys
import time
import urllib.request
from urllib.error import URLError

asked = []


def refuse(request, *arguments, **options):
    asked.append(getattr(request, "full_url", request))
    raise URLError("no network")


urllib.request.urlopen = refuse
time.sleep = lambda seconds: None

import pydicom.pixels.utils  # noqa: E402, F401

print(pydicom.__version__, len(set(asked)), "addresses asked for:", sorted(set(asked))[:2])
assert bool(asked) == (sys.argv[1] == "asks")
PYTHON
for version in 3.0.0 3.0.1; do
  python3 -m venv "$version"
  "$version/bin/pip" install --quiet pydicom=="$version" numpy==2.4.6
done
3.0.0/bin/python asked.py asks >asked.txt 2>&1; tail -1 asked.txt
3.0.1/bin/python asked.py quiet 2>/dev/null
