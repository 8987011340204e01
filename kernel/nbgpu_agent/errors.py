"""The agent's exceptions. Each carries the stable reason that clients branch on, a message, and a hint."""

from __future__ import annotations

from nbgpu_protocol.v1 import pool_pb2


class AgentError(Exception):
    """Base class of everything the agent refuses or fails at.

    Args:
        message: One sentence with the values, without a full stop.
        hint: What a person can do; empty where there is nothing.
    """

    reason: pool_pb2.Reason = pool_pb2.INTERNAL

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n\nhint: {self.hint}" if self.hint else self.message


class InvalidRequestError(AgentError):
    """Raised when a field of a request is missing or out of range."""

    reason = pool_pb2.INVALID_REQUEST


class NoSuchAcceleratorError(AgentError):
    """Raised when the node has no accelerator of any type that was asked for."""

    reason = pool_pb2.NO_SUCH_ACCELERATOR


class CanNeverFitError(AgentError):
    """Raised when the node has the type, but never as many, or as large, as asked."""

    reason = pool_pb2.CAN_NEVER_FIT


class BusyError(AgentError):
    """Raised when nothing is free now and the request said not to queue."""

    reason = pool_pb2.BUSY


class LimitReachedError(AgentError):
    """Raised when a user asks for more than the pool's owner, or their own budget, allows."""

    reason = pool_pb2.LIMIT_REACHED


class NoSuchSessionError(AgentError):
    """Raised when a session is closed already, or is another agent's."""

    reason = pool_pb2.NO_SUCH_SESSION


class WithdrawnError(AgentError):
    """Raised for those who wait for a session whose request was withdrawn by another."""

    reason = pool_pb2.NO_SUCH_SESSION


class KernelFailedError(AgentError):
    """Raised when a kernel does not start; the message holds the last lines of its standard error."""

    reason = pool_pb2.KERNEL_FAILED


class KernelDiedError(AgentError):
    """Raised when something is asked of a kernel that has ended."""

    reason = pool_pb2.KERNEL_DIED


class SessionsOpenError(AgentError):
    """Raised when the agent is to end while it is in use."""

    reason = pool_pb2.SESSIONS_OPEN


class ShuttingDownError(AgentError):
    """Raised when the agent is ending."""

    reason = pool_pb2.SHUTTING_DOWN


class AddressRefusedError(AgentError):
    """Raised for an address that the agent does not listen on."""

    reason = pool_pb2.ADDRESS_REFUSED


class InterpreterRefusedError(AgentError):
    """Raised for an interpreter that the agent does not run."""

    reason = pool_pb2.INTERPRETER_REFUSED


class NoSuchBlobError(AgentError):
    """Raised when content is asked for that the node does not have."""

    reason = pool_pb2.NO_SUCH_BLOB


class DigestMismatchError(AgentError):
    """Raised when content that came does not have the digest that was announced."""

    reason = pool_pb2.DIGEST_MISMATCH


class DiskFullError(AgentError):
    """Raised when there is no space for what was sent."""

    reason = pool_pb2.DISK_FULL


class UnauthenticatedError(AgentError):
    """Raised when a request carries no token, or a wrong one."""

    reason = pool_pb2.UNAUTHENTICATED


class TooManyAttemptsError(AgentError):
    """Raised when an address has failed too often to say who it is."""

    reason = pool_pb2.TOO_MANY_ATTEMPTS


class CodeRefusedError(AgentError):
    """Raised when a client pairs with a code that there is not, or no more."""

    reason = pool_pb2.CODE_REFUSED


class VersionMismatchError(AgentError):
    """Raised when the client speaks another version of the protocol."""

    reason = pool_pb2.VERSION_MISMATCH


class NotServedError(AgentError):
    """Raised for what the protocol reserves and this agent does not do."""

    reason = pool_pb2.NOT_IMPLEMENTED


class EnvironmentImpossibleError(AgentError):
    """Raised when the node cannot have some of a snapshot's distributions, or its Python."""

    reason = pool_pb2.ENVIRONMENT_IMPOSSIBLE


class BuildFailedError(AgentError):
    """Raised when building an environment fails; the message holds the last lines of the log."""

    reason = pool_pb2.BUILD_FAILED


class UnreachableIndexError(BuildFailedError):
    """Raised when an index does not answer."""


class NoSpaceError(BuildFailedError):
    """Raised when the disk is full."""
