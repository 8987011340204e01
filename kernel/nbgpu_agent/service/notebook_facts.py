"""What a notebook says of itself, as protobuf has it and as the agent keeps it."""

from __future__ import annotations

from collections.abc import Iterable

from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.notebook_facts import (
    LISTED,
    EnvironmentDifference,
    NotebookFacts,
    PackageChange,
    SharedVariable,
    SharedVariables,
)
from nbgpu_protocol.v1 import pool_pb2

_MAX_CHARACTERS = 1000
"""Of a name, a version or a path: the facts go to every page that watches the pool."""


def notebook_facts_from(message: pool_pb2.NotebookFacts) -> NotebookFacts:
    """Returns what a client said.

    Raises:
        InvalidRequestError: It names too much, or something too long.
    """
    difference, variables = message.difference, message.variables
    for named in (difference.packages, difference.files, difference.variables, variables.sent, variables.handles):
        if len(named) > LISTED:
            raise InvalidRequestError(f"{len(named)} things are named, {LISTED} at most")
    _check(difference.files)
    _check(difference.variables)
    for package in difference.packages:
        _check((package.name, package.before, package.now))
    _check(each.name for each in (*variables.sent, *variables.handles))
    return NotebookFacts(
        EnvironmentDifference(
            difference.package_count,
            tuple(PackageChange(each.name, each.before, each.now) for each in difference.packages),
            difference.file_count,
            tuple(difference.files),
            tuple(difference.variables),
        )
        if message.HasField("difference")
        else None,
        SharedVariables(
            variables.sent_count,
            tuple(map(_variable_from, variables.sent)),
            variables.handle_count,
            tuple(map(_variable_from, variables.handles)),
            variables.sent_bytes,
        )
        if message.HasField("variables")
        else None,
    )


def notebook_facts_message(facts: NotebookFacts) -> pool_pb2.NotebookFacts:
    difference, variables = facts.difference, facts.variables
    message = pool_pb2.NotebookFacts()
    if difference is not None:
        message.difference.CopyFrom(
            pool_pb2.EnvironmentDifference(
                package_count=difference.package_count,
                packages=[
                    pool_pb2.PackageChange(name=each.name, before=each.before, now=each.now)
                    for each in difference.packages
                ],
                file_count=difference.file_count,
                files=difference.files,
                variables=difference.variables,
            )
        )
    if variables is not None:
        message.variables.CopyFrom(
            pool_pb2.SharedVariables(
                sent_count=variables.sent_count,
                sent=map(_variable_message, variables.sent),
                handle_count=variables.handle_count,
                handles=map(_variable_message, variables.handles),
                sent_bytes=variables.sent_bytes,
            )
        )
    return message


def _check(texts: Iterable[str]) -> None:
    for text in texts:
        if len(text) > _MAX_CHARACTERS:
            raise InvalidRequestError(f"{text[:40]!r}… has {len(text)} characters, {_MAX_CHARACTERS} at most")


def _variable_from(message: pool_pb2.SharedVariable) -> SharedVariable:
    return SharedVariable(message.name, message.size_bytes if message.HasField("size_bytes") else None)


def _variable_message(variable: SharedVariable) -> pool_pb2.SharedVariable:
    return pool_pb2.SharedVariable(name=variable.name, size_bytes=variable.size_bytes)
