#!/usr/bin/env bash
# zensical 0.0.73: the plugin `offline`, which prepares a site for reading without a network, adds a script of a CDN.
#
# A site of one page that is built without the plugin loads nothing from another host. With `[project.plugins.offline]`,
# every page loads https://unpkg.com/iframe-worker/shim, so that the site that is meant for no network is the one that
# asks for it; a build with --strict reports no issue.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet zensical==0.0.73
mkdir docs
echo "# Start" >docs/index.md
loaded() {
  printf '[project]\nsite_name = "example"\n[project.theme]\nfont = false\n%s\n' "$1" >zensical.toml
  environment/bin/zensical build --strict --clean >/dev/null 2>&1
  environment/bin/python - <<'PYTHON'
import re
from pathlib import Path

page = Path("site/index.html").read_text(encoding="utf-8")
print(*re.findall(r'<script[^>]* src="?(https?://[^"\s>]+)', page))
PYTHON
}
plain=$(loaded "")
offline=$(loaded "[project.plugins.offline]")
echo "zensical 0.0.73, scripts of other hosts"
echo "without the plugin: ${plain:-none}"
echo "with the plugin offline: ${offline:-none}"
[ -z "$plain" ] && [ "$offline" = "https://unpkg.com/iframe-worker/shim" ]
