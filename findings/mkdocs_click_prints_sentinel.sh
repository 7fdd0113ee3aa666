#!/usr/bin/env bash
# mkdocs-click 0.9.0 beside click 8.5.1: the default of every option without one is documented as `Sentinel.UNSET`.
#
# click 8.3 and later mark an option without a default by a sentinel instead of None. mkdocs-click's table of options
# prints it as a default, where click's own --help prints none.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet mkdocs-click==0.9.0 click==8.5.1 markdown==3.11.3
cat >tool.py <<'PYTHON'
import click


@click.command()
@click.option("--name", help="Whom to greet.")
def main(name):
    """Greet."""
PYTHON
PYTHONPATH=. environment/bin/python - <<'PYTHON'
from importlib.metadata import version

import markdown
from click.testing import CliRunner

import tool

page = markdown.markdown("::: mkdocs-click\n    :module: tool\n    :command: main\n    :style: table\n", extensions=["attr_list", "tables", "mkdocs-click"])
row = next(line for line in page.replace("</td>\n<td>", " | ").splitlines() if "--name" in line)
shown = CliRunner().invoke(tool.main, ["--help"]).output
print("click", version("click"), "mkdocs-click", version("mkdocs-click"))
print("mkdocs-click:", row)
print("--help:", next(line.strip() for line in shown.splitlines() if "--name" in line))
assert "Sentinel.UNSET" in page
assert "UNSET" not in shown
PYTHON
