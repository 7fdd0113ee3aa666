#!/usr/bin/env bash
# mkdocs 1.6.1: `build --strict --quiet` succeeds where `build --strict` aborts.
#
# Strict mode counts warnings with a handler of the logger, and --quiet raises that logger's level above warnings, so
# that none is counted. A build whose output is silenced for a script has no strict mode.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet mkdocs==1.6.1
mkdir docs
echo 'site_name: example' >mkdocs.yml
echo '[a page](gone.md)' >docs/index.md
outcome() { environment/bin/mkdocs build "$@" >/dev/null 2>&1 && echo succeeds || echo aborts; }
strict=$(outcome --strict)
quiet=$(outcome --strict --quiet)
echo "mkdocs 1.6.1, a link to a page that is missing"
echo "build --strict: $strict"
echo "build --strict --quiet: $quiet"
[ "$strict $quiet" = "aborts succeeds" ]
