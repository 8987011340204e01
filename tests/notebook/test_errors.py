"""Every exception of the notebook's side: what it says, that it survives pickling, and which reason becomes which."""

from __future__ import annotations

import inspect
import pickle

import grpc
import grpc.aio
import pytest

from nbgpu import errors
from nbgpu_protocol import ERROR_METADATA_KEY
from nbgpu_protocol.v1 import pool_pb2

SAMPLES = {
    errors.SpecError: errors.SpecError("H100xx", 5, "a count is a number"),
    errors.RemoteError: errors.RemoteError("ModelError", "no such layer", ["frame 1", "frame 2"]),
}
"""Those whose arguments are their own; all others take words, and some a hint."""


BASES = (errors.Error, errors.AgentReportedError)


def all_kinds() -> list[type[errors.Error]]:
    return [
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.Error) and kind.__module__ == errors.__name__
    ]


def sample(kind: type[errors.Error]) -> errors.Error:
    if kind in SAMPLES:
        return SAMPLES[kind]
    if issubclass(kind, (errors.AgentReportedError, errors.CommandError)):
        return kind("it is 8 that are asked for, and 2 that there are", "ask for fewer")
    return kind("it is 8 that are asked for, and 2 that there are")


@pytest.mark.parametrize("kind", all_kinds())
def test_every_exception_survives_pickling(kind: type[errors.Error]) -> None:
    error = sample(kind)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (again.args, again.message(), again.hint, str(again)) == (
        error.args,
        error.message(),
        error.hint,
        str(error),
    )
    assert vars(again) == vars(error)


@pytest.mark.parametrize("kind", all_kinds())
def test_every_exception_says_what_happened_and_then_what_to_do(kind: type[errors.Error]) -> None:
    error = sample(kind)
    assert error.message()
    assert not error.message().endswith(".")
    assert not error.hint.endswith(".")
    assert str(error) == (f"{error.message()}\n\nhint: {error.hint}" if error.hint else error.message())


@pytest.mark.parametrize("kind", [kind for kind in all_kinds() if kind not in BASES])
def test_every_exception_is_somebodys(kind: type[errors.Error]) -> None:
    """The person's, the infrastructure's or ours, and one of them only."""
    branches = (errors.UserError, errors.PlatformError, errors.InfrastructureError)
    assert sum(issubclass(kind, branch) for branch in branches) == 1


def test_a_spec_error_points_at_what_is_wrong() -> None:
    lines = SAMPLES[errors.SpecError].message().splitlines()
    assert lines == ["cannot read the spec 'H100xx': a count is a number", "    H100xx", "         ^"]


def test_an_error_without_a_hint_of_its_own_keeps_that_of_its_kind() -> None:
    assert errors.BusyError("no H100 is free").hint == errors.BusyError.hint
    assert errors.BusyError("no H100 is free", "wait").hint == "wait"
    assert errors.CommandError("there is no command").hint == "see `%gpu?`"


REASONS = {
    "REASON_UNSPECIFIED": (0, errors.AgentFaultError),
    "VERSION_MISMATCH": (1, errors.VersionMismatchError),
    "UNAUTHENTICATED": (2, errors.AuthenticationError),
    "NO_SUCH_ACCELERATOR": (3, errors.NoSuchAcceleratorError),
    "CAN_NEVER_FIT": (4, errors.CanNeverFitError),
    "NO_SUCH_SESSION": (5, errors.NoSuchSessionError),
    "BUSY": (6, errors.BusyError),
    "KERNEL_FAILED": (7, errors.KernelFailedError),
    "KERNEL_DIED": (8, errors.KernelDiedError),
    "SESSIONS_OPEN": (9, errors.SessionsOpenError),
    "NOT_IMPLEMENTED": (10, errors.NotOfferedError),
    "INVALID_REQUEST": (11, errors.InvalidRequestError),
    "NO_SUCH_BLOB": (12, errors.NoSuchBlobError),
    "DIGEST_MISMATCH": (13, errors.DigestMismatchError),
    "SHUTTING_DOWN": (14, errors.AgentUnreachableError),
    "INTERNAL": (15, errors.AgentFaultError),
    "ADDRESS_REFUSED": (16, errors.NotOfferedError),
    "INTERPRETER_REFUSED": (17, errors.NotOfferedError),
    "ENVIRONMENT_IMPOSSIBLE": (18, errors.EnvironmentImpossibleError),
    "BUILD_FAILED": (19, errors.BuildFailedError),
    "DISK_FULL": (20, errors.DiskFullError),
    "LIMIT_REACHED": (60, errors.LimitReachedError),
    "TOO_MANY_ATTEMPTS": (70, errors.AuthenticationError),
    "CODE_REFUSED": (71, errors.AuthenticationError),
}
"""Frozen: agents and clients of other versions go by the numbers. A new reason is added here, none is changed."""


def test_reasons_are_frozen() -> None:
    assert dict(pool_pb2.Reason.items()) == {name: number for name, (number, _) in REASONS.items()}


@pytest.mark.parametrize("name", REASONS)
def test_an_agents_error_becomes_the_exception_of_its_reason(name: str) -> None:
    number, kind = REASONS[name]
    message = pool_pb2.Error(reason=number, message="the values", hint="do this")  # type: ignore[arg-type]
    error = errors.from_message(message)
    assert type(error) is kind
    assert (error.message(), error.hint) == ("the values", "do this")
    of_rpc = errors.from_rpc_error(rpc_error(grpc.StatusCode.UNKNOWN, message))
    assert type(of_rpc) is kind
    assert str(of_rpc) == str(error)


def test_a_reason_of_a_newer_agent_is_told_all_the_same() -> None:
    error = errors.from_message(pool_pb2.Error(reason=999, message="too warm", hint="wait"))  # type: ignore[arg-type]
    assert str(error) == "too warm\n\nhint: wait"


def rpc_error(code: grpc.StatusCode, error: pool_pb2.Error | None = None) -> grpc.RpcError:
    trailing = grpc.aio.Metadata(("other", "entry"))
    if error is not None:
        trailing.add(ERROR_METADATA_KEY, error.SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details="connection refused")


OF_STATUS: dict[grpc.StatusCode, type[errors.Error]] = {
    grpc.StatusCode.UNAVAILABLE: errors.AgentUnreachableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.AgentUnreachableError,
    grpc.StatusCode.CANCELLED: errors.AgentUnreachableError,
    grpc.StatusCode.INTERNAL: errors.AgentUnreachableError,
    grpc.StatusCode.UNAUTHENTICATED: errors.AuthenticationError,
    grpc.StatusCode.UNIMPLEMENTED: errors.VersionMismatchError,
}


@pytest.mark.parametrize("status", list(grpc.StatusCode))
def test_a_status_without_an_agents_reason_is_told_by_itself(status: grpc.StatusCode) -> None:
    error = errors.from_rpc_error(rpc_error(status))
    assert type(error) is OF_STATUS.get(status, errors.AgentFaultError)
    if status is grpc.StatusCode.UNIMPLEMENTED:
        assert error.message() == "the agent's nbgpu is older than this one, and does not know this"
        assert error.hint == errors.UPGRADE_THERE
    else:
        assert error.message() == "the agent does not answer: connection refused"
