"""Lines of the log: JSON for programs, or text for people."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from functools import lru_cache
from typing import Any, Literal

Format = Literal["json", "text"]


class JsonLines(logging.Formatter):
    """Formats log records as one JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        content = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        return json.dumps(content | _fields(self, record))


class TextLines(logging.Formatter):
    """Formats log records as one line of text: time, level, event, and its fields as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(self, record)
        exception = fields.pop("exception", "")
        parts = [_time(record), f"{record.levelname.lower():7}", record.getMessage()]
        parts += [f"{name}={_plain(value)}" for name, value in fields.items()]
        return " ".join(parts) + (f"\n{exception}" if exception else "")


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.msecs):03}Z"


@lru_cache(2)
def _second(number: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(number))


def _fields(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {**getattr(record, "fields", {})}
    if record.exc_info:
        fields["exception"] = formatter.formatException(record.exc_info)
    return fields


def _plain(value: Any) -> str:
    """A value without spaces around it, in quotes where it has some inside, so that a line can be split again."""
    text = str(value) if isinstance(value, str | int | float) else json.dumps(value)
    return text if text.isprintable() and not set(text) & set(' "=') and text else json.dumps(text)


class BufferedLines(logging.Handler):
    """Writes lines to stderr. Lines about requests wait for `flush`; any other line writes out all of them at once."""

    def __init__(self, form: Format = "json") -> None:
        super().__init__()
        self.setFormatter(JsonLines() if form == "json" else TextLines())
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record) + "\n")
        if record.msg != "request":
            self.flush()

    def flush(self) -> None:
        with self.lock or contextlib.nullcontext():
            lines, self._lines = self._lines, []
        if lines:
            sys.stderr.write("".join(lines))
            sys.stderr.flush()
