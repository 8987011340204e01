"""A call of a function on the ranks of a session, as the notebook has it: followed, asked, cancelled, found again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nbgpu import errors
from nbgpu.client.background import background
from nbgpu.notebook import this_notebook
from nbgpu.output import choose_publisher
from nbgpu.ranks.errors import CallCancelledError, NoSuchCallError, NoSuchRankError
from nbgpu.ranks.failure import failure_of
from nbgpu.ranks.site import AttachedSite, OwnSite, Site, is_session_kernel
from nbgpu.values.errors import NotPicklableError

RANK_OPTION = "--rank"


def find_call(call_id: str = "") -> Call:
    """Finds a call again, also after a restart of this notebook's kernel.

    Args:
        call_id: As `Call.id`; empty for the latest of this notebook's session.

    Raises:
        NoSuchCallError: The session does not know it.
        NoSuchSessionError: The session is closed.
    """
    session_id, _, number = call_id.rpartition("/")
    site = _find_site(session_id)
    known = site.ask("describe", number)
    if known["state"] == "unknown":
        raise NoSuchCallError(call_id)
    return Call(site, known["id"], known["world_size"])


def _find_site(session_id: str) -> Site:
    if is_session_kernel():
        return OwnSite()
    if session_id:
        return AttachedSite(background().run(this_notebook().find(session_id)))
    client = background().run(this_notebook().find_chosen())
    if client is None:
        raise errors.NoSuchSessionError("this notebook is not attached to a session")
    return AttachedSite(client)


class Call:
    """A call on the ranks of a session. Made by `submit`, and by `find_call`.

    What it is asked it asks the session's kernel, and waits for the cell that runs there.
    """

    def __init__(self, site: Site, number: str, world_size: int, *, all_ranks: bool = False) -> None:
        self._site = site
        self._number = number
        self._world_size = world_size
        self._all_ranks = all_ranks

    @property
    def id(self) -> str:
        """By which `find_call` finds it."""
        return f"{self._site.session_id}/{self._number}"

    def __repr__(self) -> str:
        return f"<nbgpu call {self.id} on {self._world_size} ranks>"

    @property
    def status(self) -> str:
        """One of "running", "returned", "failed", "timed_out", "cancelled", "interrupted", "not_launched".

        Raises:
            NoSuchCallError: The session does not know the call any more.
        """
        state = str(self._site.ask("state", self._number))
        if state == "unknown":
            raise NoSuchCallError(self.id)
        return state

    def result(self) -> list[Any]:
        """Waits for the end, with the ranks' output shown here from its beginning, and returns what they returned.

        An interrupt ends the call.

        Returns:
            What each rank's function returned, in rank order.

        Raises:
            BaseException: What the first rank that failed raised, of its own type where that can be had here.
            RankFailedError: It was killed, or ended without having returned.
            CallTimeoutError: The call took longer than its timeout.
            CallCancelledError: It was cancelled.
            LaunchError: The ranks could not be started.
            NotPicklableError: Something that was returned cannot be put together here.
        """
        view = view_here(all_ranks=self._all_ranks)
        return self.settle(lambda: self._site.ask("follow", self._number, view))

    def settle(self, follow: Callable[[], dict[str, Any]]) -> list[Any]:
        """Returns what the ranks returned, or raises what `result` does.

        Args:
            follow: Waits for the outcome.
        """
        before = self._site.memory_used()
        answer = follow()
        self._number = self._number or str(answer.get("id", ""))
        if answer["kind"] == "returned":
            values: list[Any] = answer["returns"]
            self._site.forget_answer()
            return values
        self._site.verify_memory(before)
        raise self._failure(answer)

    def _failure(self, answer: dict[str, Any]) -> BaseException:
        kind = answer["kind"]
        if kind == "unknown":
            return NoSuchCallError(self.id)
        if kind == "unsendable":
            return NotPicklableError(answer["text"])
        if kind == "cancelled":
            return CallCancelledError(self.id)
        return failure_of(answer, self._site.hostname, self._fetch_error)

    def _fetch_error(self, rank: int) -> BaseException | None:
        """Returns the exception that a rank raised, or None where it cannot be had here."""
        try:
            found = self._site.ask("error", self._number, rank)
        except Exception:  # noqa: BLE001 - whatever keeps it from coming, what it said is known
            return None
        return found if isinstance(found, BaseException) else None

    def logs(self, rank: int = 0) -> str:
        """Returns all that a rank has written so far, on both streams, and the traceback of what ended it.

        Raises:
            NoSuchRankError: There is no such rank.
            NoSuchCallError: The session does not know the call any more.
        """
        text = self._site.ask("log", self._number, rank)
        if text is None:
            _ = self.status
            raise NoSuchRankError(rank, self._world_size)
        return str(text)

    def cancel(self) -> None:
        """Ends the ranks, with all that they started, and waits for that. Does nothing for a call that is over."""
        self._site.ask("cancel", self._number)


def read_rank_log(rank: str) -> str:
    """Returns what a rank wrote, in the latest call of this notebook's session or in its last `--spmd` cells.

    Args:
        rank: Its number, as the person typed it.

    Raises:
        CommandError: It is no number.
        NoSuchCallError: The session has had no call, and no such cell.
        NoSuchRankError: There is no such rank.
    """
    if not rank.isdecimal():
        raise errors.CommandError(
            f"a number is expected after {RANK_OPTION}, not {rank!r}", f"`%gpu logs {RANK_OPTION} 0`"
        )
    found = _find_site("").ask("rank_log", int(rank))
    if not found["world_size"]:
        raise NoSuchCallError("")
    if found["text"] is None:
        raise NoSuchRankError(int(rank), found["world_size"])
    return str(found["text"])


def view_here(*, all_ranks: bool) -> str:
    """Returns how output is to be shown where this is called."""
    if all_ranks:
        return "full"
    return "folded" if choose_publisher().immediate else "prefixed"
