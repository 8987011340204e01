"""What is kept of a session on disk, beside its journal, for the next agent to go on with."""

from __future__ import annotations

from collections.abc import Callable

from nbgpu_agent.execution_queue import ExecutionQueue
from nbgpu_agent.executions import RequestIds
from nbgpu_agent.journal import Journal
from nbgpu_agent.model import Phase, SessionInfo
from nbgpu_agent.session_kernels import SessionKernels
from nbgpu_agent.session_state import SessionState, execution_to_json, lease_state, request_to_record, state_to_json


class SessionRecord:
    """A session as `JournalKeeper` keeps it.

    Args:
        info: Returns what is known of the session now.
        is_settled: Whether its notebook has it.
        seen: The ids of its requests.
    """

    def __init__(
        self,
        info: Callable[[], SessionInfo],
        is_settled: Callable[[], bool],
        journal: Journal,
        kernels: SessionKernels,
        executions: ExecutionQueue,
        seen: RequestIds,
    ) -> None:
        self._info = info
        self._is_settled = is_settled
        self._journal = journal
        self._kernels = kernels
        self._executions = executions
        self._seen = seen

    def state_record(self) -> bytes | None:
        """Returns the session's state; None before it is ready, when there is nothing to go on with."""
        info = self._info()
        if info.phase is not Phase.READY:
            return None
        kernel, current = self._kernels.kernel, self._executions.current
        return state_to_json(
            SessionState(
                id=info.id,
                request=info.request,
                lease=lease_state(info.lease),
                kernel_id=kernel.id if kernel is not None else "",
                kernel_exit=self._kernels.exit,
                generation=info.kernel_generation,
                kernel_number=kernel.channels.number if kernel is not None else 0,
                journal_number=self._journal.last_number,
                created_unix_s=info.created_unix_s,
                last_active_unix_s=info.last_active_unix_s,
                attached_unix_s=info.attached_unix_s,
                settled=self._is_settled(),
                executions=info.executions,
                python_version=info.python_version,
                working_folder=info.working_folder,
                setting=self._kernels.setting,
                current=request_to_record(current) if current is not None and current.begun else None,
            )
        )

    def new_executions(self) -> tuple[list[tuple[int, bytes]], int]:
        record = self._executions.record
        changed = record.take_changed()
        return [(at, execution_to_json(each)) for at, each in changed.items()], record.first_position

    def new_requests(self) -> tuple[list[tuple[int, str]], int]:
        return list(self._seen.take_new().items()), self._seen.first_position

    def acknowledgement(self) -> Callable[[], None]:
        if (kernel := self._kernels.kernel) is None:
            return lambda: None
        numbers = (kernel.channels.number, self._journal.last_number)
        return lambda: kernel.acknowledgement.write(*numbers)
