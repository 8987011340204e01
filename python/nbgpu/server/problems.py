"""What goes wrong between a page, the Jupyter server and a pool, in words that reach the page. Knows no gRPC."""

from __future__ import annotations

from nbgpu.server.views import ProblemView


class PoolLostError(Exception):
    """Raised when a pool cannot be watched or asked, or not any more.

    Carries the text of the error that was its cause, so that who handles it needs neither gRPC nor protobuf.
    """

    reason = "pool_lost"
    status = 503

    def __init__(self, message: str, hint: str | None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def view(self) -> ProblemView:
        return ProblemView(message=self.message, hint=self.hint)


class RefusedError(Exception):
    """Raised when a pool, or this server, refuses what a page asked for.

    Args:
        message: One sentence with the values, without a full stop.
        hint: What a person can do.
        reason: Stable, for programs.
        status: Of HTTP.
    """

    def __init__(
        self, message: str, hint: str | None = None, reason: str = "invalid_request", status: int = 400
    ) -> None:
        super().__init__(message, hint, reason, status)
        self.message = message
        self.hint = hint
        self.reason = reason
        self.status = status

    def view(self) -> ProblemView:
        return ProblemView(message=self.message, hint=self.hint)
