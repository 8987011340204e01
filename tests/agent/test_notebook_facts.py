"""What a notebook says of itself: kept for whoever watches, until it is another notebook's or the kernel is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import pytest

from nbgpu_protocol.v1 import pool_pb2, session_pb2
from session_clients import Service, connect, run_service

pytestmark = pytest.mark.asyncio

FACTS = pool_pb2.NotebookFacts(
    difference=pool_pb2.EnvironmentDifference(
        package_count=2,
        packages=[pool_pb2.PackageChange(name="torch", before="2.12", now="2.13")],
        file_count=1,
        files=["mine.py"],
        variables=["HF_HOME"],
    ),
    variables=pool_pb2.SharedVariables(
        sent_count=1,
        sent=[pool_pb2.SharedVariable(name="data", size_bytes=12)],
        handle_count=1,
        handles=[pool_pb2.SharedVariable(name="model")],
        sent_bytes=12,
    ),
)


async def note(client: Any, facts: pool_pb2.NotebookFacts, *, notebook_id: str = "nb-1", generation: int = 1) -> None:
    await client.stub.NoteNotebook(
        session_pb2.NoteNotebookRequest(
            session_id="s1", notebook_id=notebook_id, kernel_generation=generation, facts=facts
        )
    )


async def seen(service: Service) -> pool_pb2.NotebookFacts:
    async with connect(service) as client:
        return client.connected.session.notebook


async def test_it_is_kept_as_it_was_said_and_goes_with_the_kernel_or_the_notebook(tmp_path: Path) -> None:
    async with run_service(tmp_path) as service:
        session = await service.open(notebook_id="nb-1")
        async with connect(service) as client:
            await note(client, FACTS)
            assert await seen(service) == FACTS

            await note(client, pool_pb2.NotebookFacts(), notebook_id="nb-2")
            assert await seen(service) == FACTS  # it is not that notebook's

            await client.restart()
            await note(client, FACTS, generation=1)  # on its way when the kernel was restarted
            facts = await seen(service)
            assert facts.difference == FACTS.difference
            assert not facts.HasField("variables")

            await note(client, FACTS, generation=2)
            session.attach("nb-1")
            assert await seen(service) == FACTS
            session.attach("nb-2")
            assert await seen(service) == pool_pb2.NotebookFacts()


@pytest.mark.parametrize(
    "facts",
    [
        pool_pb2.NotebookFacts(difference=pool_pb2.EnvironmentDifference(files=["a"] * 101)),
        pool_pb2.NotebookFacts(difference=pool_pb2.EnvironmentDifference(files=["a" * 1001])),
        pool_pb2.NotebookFacts(variables=pool_pb2.SharedVariables(sent=[pool_pb2.SharedVariable()] * 101)),
    ],
    ids=["many", "long", "variables"],
)
async def test_what_is_too_much_for_every_page_is_refused(tmp_path: Path, facts: pool_pb2.NotebookFacts) -> None:
    async with run_service(tmp_path) as service:
        await service.open(notebook_id="nb-1")
        async with connect(service) as client:
            with pytest.raises(grpc.aio.AioRpcError, match="at most"):
                await note(client, facts)
            assert await seen(service) == pool_pb2.NotebookFacts()
