"""What a pool's user has spent, and may spend."""

from __future__ import annotations

from nbgpu.client.pool import DEADLINE_S, Pool
from nbgpu.errors import translated
from nbgpu_protocol.v1 import accounting_pb2, accounting_pb2_grpc


async def report_usage(pool: Pool, session_id: str = "", notebook_id: str = "") -> accounting_pb2.UsageReport:
    """Returns what the user's sessions used and cost.

    Args:
        pool: Where they are.
        session_id: One whose part is wanted too; empty: none.
        notebook_id: A notebook whose part is wanted too; empty: none.
    """
    request = accounting_pb2.UsageRequest(session_id=session_id, notebook_id=notebook_id)
    with translated():
        report: accounting_pb2.UsageReport = await accounting_pb2_grpc.AccountingStub(pool.channel).ReportUsage(
            request, metadata=pool.metadata, timeout=DEADLINE_S
        )
    return report


async def set_budget(pool: Pool, notebook_id: str, amount: float | None) -> list[accounting_pb2.Allowance]:
    """Bounds what is spent for a notebook, or in a month where that is empty; returns what may be spent now.

    Args:
        pool: Where.
        notebook_id: Its Jupyter kernel id.
        amount: In the pool's currency; None: no bound.

    Raises:
        InvalidRequestError: It is not more than 0, or the pool has no prices.
    """
    request = accounting_pb2.SetBudgetRequest(notebook_id=notebook_id, amount=amount)
    with translated():
        response = await accounting_pb2_grpc.AccountingStub(pool.channel).SetBudget(
            request, metadata=pool.metadata, timeout=DEADLINE_S
        )
    return list(response.allowances)
