#!/usr/bin/env bash
# haystack-ai 3.4.1: a component that derives from a class and calls super() without arguments cannot be made.
#
# @component does not register the class that it decorates: it makes another one of the same name. The cell from which
# super() takes its class still holds the first one, of which no instance is ever made. super(NAME, self) works.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv environment
environment/bin/pip install --quiet haystack-ai==3.4.1
HAYSTACK_TELEMETRY_ENABLED=False environment/bin/python - <<'PYTHON'
from importlib.metadata import version

from haystack import component


class Named:
    def __init__(self, name):
        self.name = name


@component
class Greeter(Named):
    def __init__(self, name):
        super().__init__(name)

    @component.output_types(greeting=str)
    def run(self):
        return {"greeting": f"Hello, {self.name}"}


@component
class Other(Named):
    def __init__(self, name):
        super(Other, self).__init__(name)

    @component.output_types(greeting=str)
    def run(self):
        return {"greeting": f"Hello, {self.name}"}


print("haystack-ai", version("haystack-ai"))
print("super(Other, self):", Other("you").run())
try:
    Greeter("you")
except TypeError as error:
    print("super():", error)
else:
    raise SystemExit("super() works now")
PYTHON
