"""Every error that a request can get, in one schema with an HTTP status."""

from __future__ import annotations

import math
from typing import Any

from naflex_deploy.core.errors import ImageError, NaflexError, UsageError
from naflex_deploy.runtime.packing.isolation import EngineError
from naflex_deploy.runtime.scheduling.admission import ClosedError, QueueFullError
from naflex_deploy.runtime.scheduling.queue import DeadlineError


class Problem(NaflexError):
    """An error with which a request is answered.

    Args:
        status: HTTP status.
        reason: One of a closed set, for programs and metrics: ``body_too_large``, ``queue_full``, …
        message: What was expected and what was found. One line.
        hint: What to do about it.
        param: The part of the request that is wrong, such as ``input[3]``.
        retry_after: Seconds to wait before the request is sent again; ``None`` where that cannot help.
        allow: The methods that the path takes, where it does not take that of the request.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        hint: str = "",
        param: str | None = None,
        retry_after: float | None = None,
        allow: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason
        self.param = param
        self.retry_after = retry_after
        self.allow = allow

    def headers(self) -> dict[str, str]:
        if self.retry_after is not None:
            return {"retry-after": str(max(1, math.ceil(self.retry_after)))}
        if self.allow:
            return {"allow": self.allow}
        return {"www-authenticate": "Bearer"} if self.status == 401 else {}

    def content(self, path: str, request_id: str) -> dict[str, Any]:
        """The answer's body. ``error`` is text in the Open Inference Protocol, and an object for OpenAI's clients."""
        fields = {
            "message": self.message,
            "type": self.reason,
            "code": self.status,
            "param": self.param,
            "hint": self.hint,
            "request_id": request_id,
        }
        return {"error": str(self), **fields} if path.startswith("/v2") else {"error": fields}


def problem_of(error: BaseException, param: str | None = None) -> Problem:
    """The problem that reports an error of the runtime to the sender of a request."""
    match error:
        case Problem():
            return error
        case ImageError():
            return Problem(422, "bad_image", error.message, hint=error.hint, param=param)
        case UsageError():
            return Problem(422, "bad_request", error.message, hint=error.hint, param=param)
        case QueueFullError():
            return Problem(429, "queue_full", error.message, hint=error.hint, retry_after=error.retry_after)
        case DeadlineError():
            return Problem(504, "deadline", error.message, hint="allow more time, or send less at once", param=param)
        case ClosedError():
            return Problem(503, "draining", error.message, hint=error.hint, retry_after=1)
        case EngineError():
            return Problem(500, "engine_failed", error.message, hint=error.hint, param=param)
        case _:
            return Problem(
                500, "internal", f"the server failed with {type(error).__name__}", hint="see the server's log"
            )
