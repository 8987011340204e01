"""The Accounting service: what a user used and spent, and what they may spend."""

from __future__ import annotations

import math
import sqlite3
from typing import Any, TypeAlias

import grpc
import grpc.aio

from nbgpu_agent.accounting.accounts import Accounts
from nbgpu_agent.accounting.allowances import Allowance
from nbgpu_agent.accounting.ledger import CellUse, Total
from nbgpu_agent.errors import DiskFullError, InvalidRequestError
from nbgpu_agent.identity.caller import current_caller
from nbgpu_agent.service.conversions import checked_text
from nbgpu_agent.service.translated_errors import translated
from nbgpu_protocol.v1 import accounting_pb2, accounting_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class AccountingService(accounting_pb2_grpc.AccountingServicer):
    """Answers from the accounts."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    @translated
    async def ReportUsage(  # noqa: N802
        self, request: accounting_pb2.UsageRequest, context: Context
    ) -> accounting_pb2.UsageReport:
        session_id = checked_text("session_id", request.session_id)
        notebook_id = checked_text("notebook_id", request.notebook_id)
        try:
            report = await self._accounts.report(current_caller().user, session_id, notebook_id)
        except sqlite3.Error as error:
            raise DiskFullError(f"the ledger of what was used cannot be read: {error}") from error
        prices = self._accounts.prices
        users = report.month_by_owner if current_caller().administrator else {}
        return accounting_pb2.UsageReport(
            session=_usage_message(report.session) if report.session is not None else None,
            notebook=_usage_message(report.notebook) if report.notebook is not None else None,
            today=_usage_message(report.today),
            month=_usage_message(report.month),
            top_cells=[_cell_message(each) for each in report.top_cells],
            allowances=[_allowance_message(each) for each in report.allowances],
            currency=prices.currency if prices.per_hour or report.month.cost is not None else "",
            users=[accounting_pb2.UserUsage(user=user, usage=_usage_message(used)) for user, used in users.items()],
        )

    @translated
    async def SetBudget(  # noqa: N802
        self, request: accounting_pb2.SetBudgetRequest, context: Context
    ) -> accounting_pb2.SetBudgetResponse:
        notebook_id = checked_text("notebook_id", request.notebook_id)
        amount = request.amount if request.HasField("amount") else None
        if amount is not None:
            if not (math.isfinite(amount) and amount > 0):
                raise InvalidRequestError(f"a budget is more than 0, {amount:g} asked", "`%gpu budget off` ends it")
            if not self._accounts.prices.per_hour:
                raise InvalidRequestError(
                    "this pool has no prices, so nothing is spent on it",
                    "its owner sets some by NBGPU_PRICES, such as `NBGPU_PRICES=H100=2.10,A10=0.75`",
                )
        try:
            await self._accounts.set_budget(current_caller().user, notebook_id, amount)
        except sqlite3.Error as error:
            raise DiskFullError(f"the budget cannot be kept: {error}") from error
        return accounting_pb2.SetBudgetResponse(
            allowances=[
                _allowance_message(each) for each in self._accounts.allowances(current_caller().user, notebook_id)
            ]
        )


def _usage_message(total: Total | CellUse) -> accounting_pb2.Usage:
    return accounting_pb2.Usage(
        accelerator_seconds=total.accelerator_s, busy_accelerator_seconds=total.busy_accelerator_s, cost=total.cost
    )


def _cell_message(cell: CellUse) -> accounting_pb2.CellUsage:
    message = accounting_pb2.CellUsage(
        session_id=cell.session_id,
        notebook_name=cell.notebook_name,
        execution_count=max(cell.execution_count or 0, 0),
        accelerators=cell.accelerators,
        began_unix_s=cell.began_unix_s,
        ended_unix_s=cell.ended_unix_s,
        usage=_usage_message(cell),
    )
    if cell.succeeded is not None:
        message.succeeded = cell.succeeded
    return message


def _allowance_message(allowance: Allowance) -> accounting_pb2.Allowance:
    return accounting_pb2.Allowance(
        of=allowance.of,
        amount=allowance.amount,
        spent=allowance.spent,
        unit=allowance.unit,
        per_hour=allowance.per_hour,
    )
