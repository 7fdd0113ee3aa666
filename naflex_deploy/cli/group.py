"""The group of all commands: each is imported when it is called, and every error looks the same."""

from __future__ import annotations

import gc
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

READERS = ("embed", "serve")
"""Commands that read files in processes of their own."""

HELP: type | tuple[type, ...] = getattr(click.exceptions, "NoArgsIsHelpError", ())
"""What click raises to show the help; before 8.2 it shows the help itself."""


class SuggestingGroup(click.Group):
    """Says which command was probably meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            from naflex_deploy.core.errors import nearest

            error = click.UsageError(f"no command named '{args[0]}'")
            error.hint = nearest(args[0], names)  # type: ignore[attr-defined]
            raise error
        return super().resolve_command(ctx, args)


class LazyGroup(SuggestingGroup):
    """Imports the module of a command only when it is called, so that no command pays for another's imports.

    Args:
        summaries: Each command and its summary, so that listing the commands imports none of them.
    """

    def __init__(self, *arguments: Any, summaries: Mapping[str, str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.summaries = summaries
        self._alone = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.summaries:
            return None
        # Nothing of what an import makes is garbage, and looking through it takes a tenth of the time of importing.
        gc.disable()
        try:
            command: click.Command = import_module(f"naflex_deploy.cli.{cmd_name.replace('-', '_')}").command
        finally:
            gc.freeze()
            gc.enable()
        if self._alone and cmd_name in READERS:
            from naflex_deploy.core.worker.fork_server import fork_ahead

            fork_ahead()
        _add_quiet(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        known = ((name, text) for name, text in self.summaries.items() if name.startswith(incomplete))
        found = [CompletionItem(name, help=text) for name, text in known]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **options: Any) -> Any:  # type: ignore[override]
        self._alone = args is None  # the process is this command's: nothing has started a thread
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **options)
        try:
            code = super().main(args, standalone_mode=False, **options)
        except click.ClickException as error:
            if isinstance(error, HELP):
                error.show()
            else:
                _print(error)
            sys.exit(error.exit_code)
        except click.Abort:
            from naflex_deploy.cli.terminal import print_error
            from naflex_deploy.core.errors import NaflexError

            print_error(NaflexError("interrupted"))
            sys.exit(INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the number of SIGINT."""


def _print(error: click.ClickException) -> None:
    """Print an error of click as one of ours: a line that says what happened, and one that says what to do."""
    from naflex_deploy.cli.terminal import print_error
    from naflex_deploy.core.errors import UsageError

    lines = [line.strip() for line in error.format_message().splitlines() if line.strip()]
    message, more = (lines[0].rstrip("."), lines[1:]) if lines else ("expected a command", [])
    context = getattr(error, "ctx", None)
    hint = getattr(error, "hint", "") or (f"{context.command_path} --help explains it" if context else "")
    print_error(UsageError(" ".join([message[:1].lower() + message[1:], *more]), hint=hint))


def _add_quiet(command: click.Command) -> None:
    """Give a command, or each command of a group, the option --quiet."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            _add_quiet(inner)
    elif not any(parameter.name == "quiet" for parameter in command.params):
        help_text = "Print errors only, and what --json asks for."
        command.params.append(
            click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_quiet, help=help_text)
        )


def _quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        from naflex_deploy.cli.terminal import silenced

        context.with_resource(silenced())
