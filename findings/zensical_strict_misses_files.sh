#!/usr/bin/env bash
# zensical 0.0.73: `build --strict` reports links to missing pages, and not missing images or entries of the navigation.
#
# A link to a page that does not exist fails the build. An image that does not exist, a link to a file of another kind
# that does not exist, and an entry of `nav` without its page all pass with "No issues found": the site has links that
# lead nowhere. MkDocs 1.6 fails in strict mode on each of them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet zensical==0.0.73 mkdocs==1.6.1
mkdir docs
outcome() {
  printf '[project]\nsite_name = "example"\nnav = [{ Start = "index.md" }%s]\n' "$2" >zensical.toml
  printf '# Start\n\n%s\n' "$1" >docs/index.md
  printf 'site_name: example\nnav: [{Start: index.md}%s]\n' "${2//=/:}" | tr -d '"' >mkdocs.yml
  environment/bin/mkdocs build --strict --site-dir other >/dev/null 2>&1 && echo "mkdocs passes" >>others
  if environment/bin/zensical build --strict --clean >log 2>&1; then
    grep -q "No issues found" log && echo passes
  else
    echo fails
  fi
}
page=$(outcome '[a page](gone.md)' '')
image=$(outcome '![an image](gone.png)' '')
file=$(outcome '[a file](gone.json)' '')
entry=$(outcome 'text' ', { Gone = "gone.md" }')
echo "zensical 0.0.73, build --strict"
echo "a link to a page that is missing: $page"
echo "an image that is missing: $image"
echo "a link to a file that is missing: $file"
echo "an entry of nav whose page is missing: $entry"
echo "MkDocs 1.6.1 builds with --strict: $(cat others 2>/dev/null || echo none of them)"
[ ! -e others ] && [ "$page $image $file $entry" = "fails passes passes passes" ]
