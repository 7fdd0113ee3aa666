"""The reference of the command line, from the click commands themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from docs.site.tables import code, table
from naflex_deploy.cli import main

INTRODUCTION = """# Command line

This page is generated from the commands. `naflex-deploy COMMAND --help` prints the same.

"""


def page() -> str:
    """The page in Markdown: a section for each command, subcommands included."""
    return INTRODUCTION + "".join(_section(context) for context in commands())


def commands() -> Iterator[click.Context]:
    """The context of every command, the group of all first."""
    yield from _below(click.Context(main, info_name="naflex-deploy", **main.context_settings))


def _below(context: click.Context) -> Iterator[click.Context]:
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from _below(click.Context(command, info_name=name, parent=context))


def _section(context: click.Context) -> str:
    usage = context.command.get_usage(context).removeprefix("Usage: ")
    usage = re.sub(r"\s+", " ", usage)
    options = []
    for parameter in context.command.get_params(context):
        if isinstance(parameter, click.Option) and not parameter.hidden:
            record = parameter.get_help_record(context)
            assert record is not None
            options.append((code(record[0]), _inline(record[1])))
    return (
        f"## {context.command_path}\n\n"
        f"```console\n$ {usage}\n```\n\n"
        f"{description(context.command.help or '')}\n\n"
        f"{table(('Option', 'Meaning'), options)}"
    )


def description(text: str) -> str:
    r"""Help of a command in Markdown: paragraphs that click is told not to wrap, by ``\b``, are code."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(
        "```text\n" + paragraph.removeprefix("\b\n") + "\n```" if paragraph.startswith("\b") else _inline(paragraph)
        for paragraph in paragraphs
    )


def _inline(text: str) -> str:
    """Plain text in Markdown: what stands in backticks stays code, elsewhere nothing is markup."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([\\*_<>\[\]])", r"\\\1", part) for part in parts)
