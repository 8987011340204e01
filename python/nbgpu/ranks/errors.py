"""What goes wrong with a call, and is no exception of the function's own."""

from __future__ import annotations

import signal as signals

from nbgpu.errors import InfrastructureError, UserError


class CallError(UserError):
    """What the errors of calls have in common."""


class RankFailedError(CallError):
    """Raised when a rank ended without an exception: killed, crashed, or by an exit of its own.

    Args:
        rank: Of those that failed, the first in time.
        world_size: How many there were.
        exit_code: That it ended with; None where a signal ended it.
        signal: That ended it, or None.
        killed_for_memory: Whether the operating system killed a process for memory meanwhile; None if that is not
            known.
    """

    hint = "`%gpu logs --rank N` shows all that a rank wrote"

    def __init__(
        self, rank: int, world_size: int, exit_code: int | None, signal: int | None, killed_for_memory: bool | None
    ) -> None:
        super().__init__(rank, world_size, exit_code, signal, killed_for_memory)
        self.rank = rank
        self.world_size = world_size
        self.exit_code = exit_code
        self.signal = signal
        self.killed_for_memory = killed_for_memory

    def message(self) -> str:
        return f"rank {self.rank} of {self.world_size} {self._end()}"

    def _end(self) -> str:
        if self.signal is None:
            code = "" if self.exit_code is None else f" with exit code {self.exit_code}"
            return f"ended{code} before it was done"
        try:
            name = signals.Signals(self.signal).name
        except ValueError:
            name = f"signal {self.signal}"
        if self.signal == signals.SIGKILL:
            return f"was killed by {name}, {_why_killed(self.killed_for_memory)}"
        if self.signal in (signals.SIGSEGV, signals.SIGBUS, signals.SIGFPE, signals.SIGILL, signals.SIGABRT):
            return f"crashed with {name}"
        return f"was ended by {name}"


def _why_killed(killed_for_memory: bool | None) -> str:
    if killed_for_memory is None:
        return "perhaps for memory"
    if killed_for_memory:
        return "for memory: the operating system ran out of it"
    return "not for memory: the operating system counts no such kill"


class CallTimeoutError(CallError, TimeoutError):
    """Raised when a call took longer than its timeout. Its ranks are ended.

    Args:
        timeout_s: The timeout.
        world_size: Of the call.
    """

    hint = "where each rank was is shown above; a longer `timeout=`, in seconds, is for `distributed` to be given"

    def __init__(self, timeout_s: float, world_size: int) -> None:
        super().__init__(timeout_s, world_size)
        self.timeout_s = timeout_s
        self.world_size = world_size

    def message(self) -> str:
        return f"the call on {self.world_size} ranks was ended after its timeout of {self.timeout_s:g} s"


class CallCancelledError(CallError):
    """Raised for the result of a call that was cancelled."""

    def __init__(self, call_id: str) -> None:
        super().__init__(call_id)
        self.call_id = call_id

    def message(self) -> str:
        return f"the call {self.call_id} was cancelled"


class NoSuchCallError(CallError):
    """Raised when a session has no such call, or no longer: its kernel is another, or has had many calls since."""

    hint = "a session remembers its latest calls, until it is closed or restarted"

    def __init__(self, call_id: str) -> None:
        super().__init__(call_id)
        self.call_id = call_id

    def message(self) -> str:
        return f"the session knows no call {self.call_id}" if self.call_id else "the session has had no call yet"


class NoSuchRankError(CallError):
    """Raised when a call has no rank of that number."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(rank, world_size)
        self.rank = rank
        self.world_size = world_size

    def message(self) -> str:
        return f"there is no rank {self.rank} in a call on {self.world_size} ranks, which count from 0"


class LaunchError(InfrastructureError):
    """Raised when the ranks of a call could not be started."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text, hint)
        self.hint = hint or type(self).hint

    def message(self) -> str:
        return str(self.args[0])
