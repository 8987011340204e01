"""Every exception that the notebook's side raises, and the one table that translates gRPC failures into them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import grpc

from nbgpu_protocol import ERROR_METADATA_KEY
from nbgpu_protocol.v1 import pool_pb2


class Error(Exception):
    """Base class. `str(error)` is one sentence with the values and, where a person can act, a hint."""

    hint: str = ""

    def message(self) -> str:
        """Returns what happened, in one sentence without a full stop."""
        return " ".join(map(str, self.args))

    def __str__(self) -> str:
        return f"{self.message()}\n\nhint: {self.hint}" if self.hint else self.message()


class UserError(Error):
    """The person's: a spec that cannot be read or met, a command that does not exist, a cell that raised."""


class PlatformError(Error):
    """A bug of ours."""

    hint = "this is a bug of nbgpu; please report it with the lines above and the output of `nbgpu agent log`"


class InfrastructureError(Error):
    """No capacity, a lost node, an agent that does not start."""


class SpecError(UserError):
    """Raised when a spec cannot be read; points at what is wrong.

    Args:
        text: The spec as written.
        position: Index into the text at which reading failed.
        problem: What is wrong there.
    """

    hint = "a spec is a type and a count, such as H100x8, A100-80GB, 24GB+, any or CPU, with | between alternatives"

    def __init__(self, text: str, position: int, problem: str) -> None:
        super().__init__(text, position, problem)
        self.text = text
        self.position = position
        self.problem = problem

    def message(self) -> str:
        return f"cannot read the spec {self.text!r}: {self.problem}\n    {self.text}\n    {' ' * self.position}^"


class CommandError(UserError):
    """Raised for a `%gpu` command or an option that does not exist, or that lacks an argument."""

    def __init__(self, text: str, hint: str = "see `%gpu?`") -> None:
        super().__init__(text, hint)
        self.hint = hint

    def message(self) -> str:
        return str(self.args[0])


class RemoteError(UserError):
    """Raised when a cell raised an exception whose type cannot be had here.

    Args:
        ename: Name of the remote exception's type.
        evalue: Its message.
        frames: The remote traceback as IPython rendered it, one entry a frame, with colours.
    """

    def __init__(self, ename: str, evalue: str, frames: list[str]) -> None:
        super().__init__(ename, evalue, frames)
        self.ename = ename
        self.evalue = evalue
        self.frames = frames

    def message(self) -> str:
        return self.evalue


class AgentReportedError(Error):
    """What the errors that an agent sends have in common: its message, and its hint."""

    def __init__(self, text: str, hint: str = "") -> None:
        super().__init__(text, hint)
        self.hint = hint or type(self).hint

    def message(self) -> str:
        return str(self.args[0])


class NoSuchAcceleratorError(AgentReportedError, UserError):
    """Raised when the pool has no accelerator of the types asked for."""


class CanNeverFitError(AgentReportedError, UserError):
    """Raised when the pool has the type, but never as many, or as large, as asked."""


class InvalidRequestError(AgentReportedError, UserError):
    """Raised when the agent cannot act on a request as it stands."""


class BusyError(AgentReportedError, InfrastructureError):
    """Raised when nothing is free now and the request said not to wait."""

    hint = "leave out --no-wait to queue, or see who holds what with `%gpu sessions`"


class LimitReachedError(AgentReportedError, UserError):
    """Raised when more is asked than the pool's owner, or a budget, allows."""

    hint = "see what you use with `%gpu sessions`, and what you have spent with `%gpu cost`"


class NoSuchSessionError(AgentReportedError, UserError):
    """Raised when a session is closed already, or never was."""

    hint = "list the open ones with `%gpu sessions`"


class SessionClosedError(AgentReportedError, InfrastructureError):
    """Raised when a session ended under a cell that ran in it."""

    hint = "the next `%%gpu` cell opens a new one"


class KernelFailedError(AgentReportedError, InfrastructureError):
    """Raised when a session's kernel does not start."""


class KernelDiedError(AgentReportedError, InfrastructureError):
    """Raised when a session's kernel ended while a cell ran in it, or before it could."""

    hint = "the session keeps its accelerators; the next `%%gpu` cell gets a fresh kernel, without the old variables"


class AuthenticationError(AgentReportedError, InfrastructureError):
    """Raised when the agent does not accept the token."""

    hint = "set NBGPU_AGENT_TOKEN to the token that the agent printed when it started"


class VersionMismatchError(AgentReportedError, InfrastructureError):
    """Raised when this nbgpu and the agent speak different versions of the protocol."""


class SessionsOpenError(AgentReportedError, InfrastructureError):
    """Raised when the agent is to end while it has sessions."""


class AgentStartError(AgentReportedError, InfrastructureError):
    """Raised when this machine's agent does not start."""


class AgentUnreachableError(AgentReportedError, InfrastructureError):
    """Raised when the agent does not answer."""

    hint = "`nbgpu agent status` says whether one runs here; the next `%%gpu` cell starts one"


class NotOfferedError(AgentReportedError, InfrastructureError):
    """Raised when the agent does not serve something that the protocol has, or refuses it as configured."""


class NoSuchBlobError(AgentReportedError, InfrastructureError):
    """Raised when the node does not have, or no longer has, content that it was sent."""

    hint = "run the cell again"


class DigestMismatchError(AgentReportedError, InfrastructureError):
    """Raised when content does not have the digest that it was announced with."""


class DiskFullError(AgentReportedError, InfrastructureError):
    """Raised when the disk of the node is full."""

    hint = "remove what is not needed there, from a `%%gpu` cell; closing a session removes its folder"


class EnvironmentImpossibleError(AgentReportedError, UserError):
    """Raised when the node cannot have some of what the notebook's environment consists of."""


class BuildFailedError(AgentReportedError, InfrastructureError):
    """Raised when the notebook's environment could not be built on the node."""


class AgentFaultError(AgentReportedError, PlatformError):
    """Raised when the agent failed for a reason of its own."""

    hint = PlatformError.hint


_BY_REASON: dict[int, type[Error]] = {
    pool_pb2.VERSION_MISMATCH: VersionMismatchError,
    pool_pb2.UNAUTHENTICATED: AuthenticationError,
    pool_pb2.NO_SUCH_ACCELERATOR: NoSuchAcceleratorError,
    pool_pb2.CAN_NEVER_FIT: CanNeverFitError,
    pool_pb2.NO_SUCH_SESSION: NoSuchSessionError,
    pool_pb2.BUSY: BusyError,
    pool_pb2.KERNEL_FAILED: KernelFailedError,
    pool_pb2.KERNEL_DIED: KernelDiedError,
    pool_pb2.SESSIONS_OPEN: SessionsOpenError,
    pool_pb2.NOT_IMPLEMENTED: NotOfferedError,
    pool_pb2.INVALID_REQUEST: InvalidRequestError,
    pool_pb2.SHUTTING_DOWN: AgentUnreachableError,
    pool_pb2.ADDRESS_REFUSED: NotOfferedError,
    pool_pb2.INTERPRETER_REFUSED: NotOfferedError,
    pool_pb2.NO_SUCH_BLOB: NoSuchBlobError,
    pool_pb2.DIGEST_MISMATCH: DigestMismatchError,
    pool_pb2.ENVIRONMENT_IMPOSSIBLE: EnvironmentImpossibleError,
    pool_pb2.BUILD_FAILED: BuildFailedError,
    pool_pb2.DISK_FULL: DiskFullError,
    pool_pb2.LIMIT_REACHED: LimitReachedError,
    pool_pb2.TOO_MANY_ATTEMPTS: AuthenticationError,
    pool_pb2.CODE_REFUSED: AuthenticationError,
}

UPGRADE_HERE = "upgrade nbgpu in the notebook's environment: `pip install --upgrade nbgpu`, then restart the kernel"
UPGRADE_THERE = "upgrade nbgpu on the agent's machine: `pip install --upgrade nbgpu`, then restart the agent"

# Without an agent's reason a status is gRPC's own. INTERNAL is what a write ends with that a cut interrupts.
_BY_STATUS: dict[grpc.StatusCode, type[Error]] = {
    grpc.StatusCode.UNAVAILABLE: AgentUnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: AgentUnreachableError,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.CANCELLED: AgentUnreachableError,
    grpc.StatusCode.INTERNAL: AgentUnreachableError,
}


def from_message(error: pool_pb2.Error) -> Error:
    """Returns the exception for an error that an agent sent."""
    if error.reason not in pool_pb2.Reason.values():  # of a newer agent, which says in words what it is
        return VersionMismatchError(error.message, error.hint or UPGRADE_HERE)
    return _BY_REASON.get(error.reason, AgentFaultError)(error.message, error.hint)


def from_rpc_error(error: grpc.RpcError) -> Error:
    """Returns the exception for a failed RPC, by the agent's reason or else by gRPC's status."""
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA_KEY:
            return from_message(pool_pb2.Error.FromString(value))
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return VersionMismatchError("the agent's nbgpu is older than this one, and does not know this", UPGRADE_THERE)
    return _BY_STATUS.get(error.code(), AgentFaultError)(f"the agent does not answer: {error.details()}")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raises ours in the place of a failed RPC's."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error
    except grpc.aio.UsageError as error:  # the connection was closed here, as another has taken its place
        raise AgentUnreachableError("the connection to the agent is closed") from error
