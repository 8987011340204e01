"""`nbgpu.attach` and the Session that it returns: the same as the magics, from Python."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, overload

from nbgpu import cell_execution
from nbgpu.attached_session import AttachedSession
from nbgpu.client.background import background, run_telling
from nbgpu.live_metrics.readings import as_frame, recorded_rows
from nbgpu.notebook import OnUpdate, this_notebook
from nbgpu.output import RemoteResult
from nbgpu.session_client import SessionClient
from nbgpu.spec import Spec, parse_spec
from nbgpu.values.exchange import Exchange
from nbgpu.workspace.report import SyncReport
from nbgpu_protocol.v1 import pool_pb2


def attach(
    spec: str | None = None,
    *,
    new: bool = False,
    wait: bool = True,
    on_update: OnUpdate | None = None,
    pool: str | None = None,
) -> Session:
    """Attaches this notebook to a session that has what the spec asks for, and opens one if it has none.

    Used as a context manager the session is closed at the end; otherwise it goes on, as from `%gpu attach`, if this is
    a notebook, and is closed at the end of the process if it is not.

    Args:
        spec: Such as "H100x8"; None for the session that the notebook has, else whatever the agent prefers.
        new: Open one even if the notebook has one that would do.
        wait: Queue if nothing is free now. An interrupt leaves the queue.
        on_update: Told what is happening, on this thread.
        pool: Name of the pool to ask; None: the one that has the notebook's session, else the first that can grant it.

    Raises:
        SpecError: The spec cannot be read.
        NoSuchPoolError: There is no pool of that name.
        NoSuchAcceleratorError: Nothing of that type is here.
        CanNeverFitError: There will never be as many.
        BusyError: Nothing is free, and `wait` is not set.
        KernelFailedError: The session's kernel did not start.
        AgentStartError: This machine's agent did not start.
    """
    client, _ = open_session(
        parse_spec(spec) if spec else None, new=new, wait=wait, on_update=on_update, pool_name=pool
    )
    background().run(this_notebook().choose(client))
    return Session(client)


def open_session(
    spec: Spec | None,
    *,
    new: bool = False,
    wait: bool = True,
    on_update: OnUpdate | None = None,
    pool_name: str | None = None,
    idle_close_s: float | None = None,
) -> tuple[SessionClient, bool]:
    """Does what `attach` does, and returns the session and whether it was open before, without choosing it."""
    return run_telling(
        lambda tell: this_notebook().open(
            spec, new=new, wait=wait, on_update=tell, pool_name=pool_name, idle_close_s=idle_close_s
        ),
        on_update,
    )


class Session(AttachedSession):
    """A session: accelerators and a kernel on their node, until it is closed.

    Made by `attach`. Its methods block, and can be interrupted.
    """

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, frames: TracebackType | None
    ) -> None:
        self.close()

    @overload
    def execute(
        self, code: str, *, execution_count: int | None = None, inputs: Mapping[str, Any] | None = None
    ) -> RemoteResult | None: ...

    @overload
    def execute(
        self,
        code: str,
        *,
        execution_count: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str],
    ) -> dict[str, Any]: ...

    def execute(
        self,
        code: str,
        *,
        execution_count: int | None = None,
        inputs: Mapping[str, Any] | None = None,
        outputs: Sequence[str] | None = None,
    ) -> RemoteResult | dict[str, Any] | None:
        """Runs code in the session, with its output shown here, and returns what its last expression showed.

        An interrupt reaches the code and waits for its end; a second one, a second or more later, ends the kernel.

        Args:
            code: As in a cell: magics and top-level await included.
            execution_count: The number that tracebacks and `Out` over there use; by default the next one there.
            inputs: Variables that it is to have, by name. No others are sent, nor are any changed here.
            outputs: Names of variables whose values are returned, by name, when it has run; instead of what its last
                expression showed.

        Raises:
            NotPicklableError: An input cannot be sent, or an output cannot come back.
            NotDefinedError: There is no such output.
            BaseException: What the code raised, of its own type where that can be had here, else RemoteError.
            KernelDiedError: The kernel ended while the code ran.
            SessionClosedError: The session was closed, or its agent ended.
            EnvironmentImpossibleError: The node cannot have what was installed here since.
            BuildFailedError: It could not be built there.
        """
        run_telling(lambda tell: this_notebook().bring_up_to_date(self._client, code, tell), None)
        run = functools.partial(cell_execution.run, self._client, execution_count=execution_count)
        return cell_execution.execute(self._client, code, run, inputs, outputs)

    def push(self, *names: str) -> None:
        """Sends variables of this notebook to the session, whatever their size."""
        self._exchange().push(names)

    def pull(self, *names: str) -> None:
        """Binds variables of the session here, by value, whatever their size."""
        self._exchange().pull(names)

    def sync(self, *paths: str, only: Literal["to", "from"] | None = None, dry_run: bool = False) -> SyncReport | None:
        """Brings the files beside the notebook and those of the session in step.

        What changed here since the last sync goes there, what changed there comes here. Where both changed the
        notebook's goes there, and the session's is kept there under another name. No file is deleted here. An
        interrupt leaves whole files; the next sync goes on where it was.

        Args:
            paths: Files, folders and globs, relative to the notebook's folder; none: those of the last sync. What
                `.gitignore` and `.nbgpuignore` leave out stays, unless it is a file that is named itself.
            only: "to" changes the session's folder only, "from" the notebook's only.
            dry_run: Only say what would be done.

        Returns:
            What was done, in words as a string; None where the session works in the notebook's folder itself.

        Raises:
            WorkspaceError: A path is outside of the notebook's folder, or nowhere, or stays where it is.
            LocalDiskError: There is no space here.
            DiskFullError: There is no space on the node.
            NoSuchSessionError: The session is closed.
            AgentUnreachableError: The connection was cut.
        """
        return background().run(self._sync(paths, only, dry_run=dry_run))

    def interrupt(self) -> bool:
        """Interrupts what runs in the session; returns whether something did."""
        return background().run(self._client.pool.interrupt(self.id))

    def restart(self) -> None:
        """Ends the kernel and starts a fresh one; the accelerators are kept."""
        background().run(self._client.revive_kernel())

    def logs(self) -> str:
        """Returns what the kernel's process wrote outside of cells."""
        return background().run(self._client.pool.read_log(self.id))

    def stacks(self, *, all_threads: bool = False) -> str:
        """Returns where the session's code is now, in words: of its kernel, and of each rank of a call that runs.

        It does not wait for the kernel, whatever that does.

        Args:
            all_threads: Those that wait for work, or for messages, too.

        Raises:
            KernelDiedError: There is no kernel, or it does not answer.
        """
        return background().run(self._stacks(all_threads=all_threads))

    def samples(self, last_s: float = 60.0) -> Any:
        """Returns what its accelerators did: a pandas DataFrame, or a list of dicts where there is no pandas.

        There is a row for each accelerator and reading, oldest first, with units in the columns' names; unknown is
        NaN, or None. Times are `time_unix_s`, in seconds since the epoch, and of a DataFrame also its index.

        Args:
            last_s: Of how many seconds, up to 3600; of GPUs at most since the session has them.
        """
        return as_frame(background().run(recorded_rows(self._client, last_s)))

    def info(self) -> pool_pb2.SessionInfo:
        """Returns the session as its agent knows it."""
        return background().run(self._info())

    def detach(self) -> None:
        """Leaves the session running, without this notebook."""
        background().run(this_notebook().leave(self._client))

    def close(self) -> None:
        """Ends the session, its kernel and processes, and frees its accelerators. Idempotent."""
        background().run(this_notebook().close(self._client))

    def _exchange(self) -> Exchange:
        return cell_execution.exchange(self._client, functools.partial(cell_execution.run, self._client))
