"""One sync of the notebook's folder with a session's: looks at both, plans, and carries it out."""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from nbgpu.client.workspace import SessionListing, WorkspaceClient
from nbgpu.values.transfer import progress_line
from nbgpu.workspace.bringing import Arrival, Bringing, ChangedError, RefusedFileError
from nbgpu.workspace.errors import NoSuchPathError
from nbgpu.workspace.local_tree import LocalScan, LocalTree, shown
from nbgpu.workspace.plan import BROUGHT, SENT, Direction, Step, plan
from nbgpu.workspace.report import SyncReport, is_shown
from nbgpu.workspace.sending import Sending, Shipment
from nbgpu_protocol.file_versions import Inspected
from nbgpu_protocol.v1 import workspace_pb2
from nbgpu_protocol.workspace import Choice, link_target, path_problem

T = TypeVar("T")

_ATTEMPTS = 3
"""What changes while it is on its way is looked at again, so often."""
_BROUGHT_AT_ONCE = 4
_TOLD = {
    Step.GONE_THERE: "deleted in the session, and kept here; `%gpu sync --to` sends it again",
    Step.DIFFER: "changed on both sides, and stays as it is on both; a sync without --from sends it",
}


@dataclass
class _Sides:
    """Both folders, looked at."""

    scan: LocalScan
    listing: SessionListing
    remote: dict[str, str]
    """Versions in the session."""
    noted: dict[str, str]
    inspected: dict[str, Inspected]
    """Of files in the session, by path."""

    def size_bytes(self, path: str, step: Step) -> int:
        entry = self.scan.entries.get(path)
        if step in BROUGHT and path in self.listing.files:
            return self.listing.files[path].size_bytes
        return entry.inspected.size_bytes if entry is not None else 0


class Sync:
    """One sync. Its coroutines run on the background loop.

    Args:
        tree: The notebook's folder.
        client: Of the session's folder.
        direction: Which way files go.
    """

    def __init__(self, tree: LocalTree, client: WorkspaceClient, direction: Direction) -> None:
        self._tree = tree
        self._client = client
        self._direction = direction
        self._report = SyncReport()
        self._not_seen: dict[str, str] = {}
        """Why something is left as it is, by path."""
        self._stubborn: set[str] = set()
        """What was not what it was looked at to be."""
        self._deleted_here: set[str] = set()
        self._brought_back: set[str] = set()

    async def run(self, paths: Sequence[str], *, dry_run: bool) -> SyncReport:
        """Brings both folders in step.

        Args:
            paths: Files, folders and globs, relative to the notebook's folder; none: those of the last sync.
            dry_run: Only say what would be done.

        Raises:
            OutsidePathError, NoSuchPathError, UnfitPathError, TooManyFilesError: For the paths.
            LocalDiskError, DiskFullError: There is no space, here or there.
            NotOfferedError: The session works in a folder of this machine, or its agent serves no files.
        """
        patterns = await self._patterns(paths)
        for attempt in range(_ATTEMPTS):
            sides = await self._look(patterns)
            if attempt == 0:
                self._refuse_missing(patterns, sides)
            steps = plan(
                {path: entry.version for path, entry in sides.scan.entries.items()},
                sides.remote,
                sides.noted,
                self._direction,
            )
            if attempt == 0:
                self._report.unchanged = sum(step is Step.AGREE for step in steps.values())
            if dry_run:
                self._report.is_dry = True
                shown_steps = {path: step for path, step in steps.items() if is_shown(step)}
                self._report.planned = {
                    path: (step, sides.size_bytes(path, step)) for path, step in shown_steps.items()
                }
                break
            self._stubborn = set()
            await self._carry_out(steps, sides)
            if not self._stubborn:
                break
        self._tell(steps)
        if not dry_run:
            await self._note(steps, sides, sides.scan.choice.patterns)
        return self._report

    async def _patterns(self, paths: Sequence[str]) -> tuple[str, ...]:
        if paths:
            return await asyncio.to_thread(self._tree.patterns_of, paths)
        noted = (await self._client.list_files(())).patterns
        if not noted:
            raise NoSuchPathError(
                "nothing was synced with this session before", "say what, as in `%gpu sync data`; `.` is everything"
            )
        return noted

    async def _look(self, patterns: Sequence[str]) -> _Sides:
        chosen = await _in_thread(lambda _: self._tree.find(patterns))
        with progress_line("reading", chosen.size_bytes) as report:
            scan = await _in_thread(lambda check: self._tree.read(chosen, check), _summed(report, chosen.size_bytes))
        self._not_seen = dict(scan.left_out)
        listing = await self._client.list_files(scan.choice.patterns)
        remote: dict[str, str] = {}
        inspected: dict[str, Inspected] = {}
        unknown = []
        for path, file in listing.files.items():
            if path_problem(path) or not scan.choice.chooses(path) or self._is_left_out(path, scan):
                continue  # a session that was not asked, or says so all the same
            if file.special:
                self._not_seen[path] = "it is no file in the session"
            elif file.version:
                remote[path] = file.version
            else:
                unknown.append(path)
        async for path, found in self._client.inspect(unknown):
            if path not in listing.files:
                continue
            if found is None:
                self._not_seen[path] = "it is being written in the session, or cannot be read there"
            else:
                remote[path], inspected[path] = found.version, found
        for path in self._not_seen:
            scan.entries.pop(path, None)
            remote.pop(path, None)
        noted = {
            path: version
            for path, version in listing.noted.items()
            if path not in self._not_seen
            and (path in scan.entries or path in remote or not (self._tree.has(path) or self._is_left_out(path, scan)))
        }
        return _Sides(scan, listing, remote, noted, inspected)

    def _is_left_out(self, path: str, scan: LocalScan) -> bool:
        if path in scan.entries:
            return False
        parts = path.split("/")
        above = {"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
        return bool(above & scan.left_out.keys()) or self._tree.is_ignored(path, scan.choice)

    def _refuse_missing(self, patterns: Sequence[str], sides: _Sides) -> None:
        seen = [*sides.scan.entries, *sides.remote, *sides.noted, *self._not_seen]
        for pattern in patterns:
            choice = Choice((pattern,))
            if pattern and not self._tree.has(pattern) and not any(choice.chooses(path) for path in seen):
                raise NoSuchPathError(
                    f"{shown(pattern)} is neither in the notebook's folder {self._tree.folder} nor in the session",
                    "paths are relative to the notebook's folder; what is ignored there has to be named itself",
                )

    async def _carry_out(self, steps: dict[str, Step], sides: _Sides) -> None:
        sent = [path for path, step in steps.items() if step in SENT or step is Step.REMOVE]
        brought = [path for path, step in steps.items() if step in BROUGHT]
        self._deleted_here = {path for path, step in steps.items() if step is Step.BRING_BACK}
        await self._send(sent, steps, sides)
        await self._bring(brought, sides)

    async def _send(self, paths: Sequence[str], steps: dict[str, Step], sides: _Sides) -> None:
        # What goes makes place for what comes: a file where a folder was.
        ordered = sorted(paths, key=lambda path: steps[path] is not Step.REMOVE)
        shipments = [
            Shipment(
                path,
                sides.scan.entries.get(path),
                sides.remote.get(path, ""),
                keep_present=steps[path] is Step.SEND_AND_KEEP,
            )
            for path in ordered
        ]
        total_bytes = sum(sides.size_bytes(path, steps[path]) for path in paths)
        with progress_line("sending", total_bytes) as report:
            sending = Sending(self._client, _summed(report, total_bytes))
            async for shipment, outcome in sending.send(shipments):
                self._note_outcome(shipment, outcome)

    def _note_outcome(self, shipment: Shipment, outcome: workspace_pb2.Outcome | None) -> None:
        path = shipment.path
        if outcome is None or outcome.result == workspace_pb2.Outcome.CHANGED:
            self._stubborn.add(path)
        elif outcome.result == workspace_pb2.Outcome.REFUSED:
            self._not_seen[path] = f"it was not changed in the session: {outcome.why}"
        elif shipment.entry is None:
            self._report.removed.append(path)
        else:
            self._report.sent[path] = shipment.entry.inspected.size_bytes
            if outcome.kept_path:
                self._report.notes.append(
                    f"{shown(path)}: changed on both sides; the notebook's is there now, and the session's is kept"
                    f" there as {shown(outcome.kept_path)}"
                )

    async def _bring(self, paths: Sequence[str], sides: _Sides) -> None:
        wanted = []
        for path in paths:
            if link_target(sides.remote[path]) is not None:
                self._not_seen[path] = "links that were made in the session stay there"
            else:
                wanted.append(path)
        async for path, found in self._client.inspect([path for path in wanted if path not in sides.inspected]):
            if found is not None:
                sides.inspected[path] = found
        arrivals = []
        for path in wanted:
            inspected = sides.inspected.get(path)
            if inspected is None or inspected.version != sides.remote[path]:
                self._stubborn.add(path)
            else:
                arrivals.append(Arrival(path, inspected, sides.scan.entries.get(path)))
        if not arrivals:
            return
        total_bytes = sum(arrival.inspected.size_bytes for arrival in arrivals)
        with progress_line("fetching", total_bytes) as report:
            bringing = Bringing(self._client, self._tree, _summed(report, total_bytes))
            queue = collections.deque(arrivals)
            async with bringing.going_on():
                workers = [asyncio.ensure_future(self._bring_next(bringing, queue)) for _ in range(_BROUGHT_AT_ONCE)]
                try:
                    await asyncio.gather(*workers)
                finally:
                    for worker in workers:
                        worker.cancel()
                    await asyncio.gather(*workers, return_exceptions=True)

    async def _bring_next(self, bringing: Bringing, queue: collections.deque[Arrival]) -> None:
        while queue:
            arrival = queue.popleft()
            try:
                await bringing.bring(arrival)
            except ChangedError:
                self._stubborn.add(arrival.path)
            except RefusedFileError as error:
                self._not_seen[arrival.path] = f"it was not brought: {error}"
            else:
                self._report.brought[arrival.path] = arrival.inspected.size_bytes
                if arrival.path in self._deleted_here:
                    self._brought_back.add(arrival.path)

    def _tell(self, steps: dict[str, Step]) -> None:
        report = self._report
        report.note_each(sorted(self._brought_back), "deleted here and changed in the session, so it was brought")
        for step, text in _TOLD.items() if not report.is_dry else ():
            report.note_each([path for path, each in steps.items() if each is step], text)
        left = collections.defaultdict(list)
        for path, why in {**self._not_seen, **dict.fromkeys(self._stubborn, "it kept changing; sync it again")}.items():
            left[why].append(path)
        for why, paths in left.items():
            report.note_each(sorted(paths), f"left as it is: {why}")

    async def _note(self, steps: dict[str, Step], sides: _Sides, patterns: Sequence[str]) -> None:
        """Notes what both sides have in common now; what was sent, the agent has noted."""
        noted = {path: "" for path, step in steps.items() if step is Step.FORGET}
        for path, step in steps.items():
            is_new = step is Step.AGREE and sides.noted.get(path) != sides.remote[path]
            has_come = step in BROUGHT and path in self._report.brought and path not in self._stubborn
            if is_new or has_come:
                noted[path] = sides.remote[path]
        await self._client.note(noted, patterns)


class _StoppedError(Exception):
    pass


async def _in_thread(
    work: Callable[[Callable[[int], None]], T], on_progress: Callable[[int], None] = lambda _: None
) -> T:
    """Runs what reads files; cancelled, it is told to stop, and waited for, so that it is never done twice at once."""
    stopped = threading.Event()

    def check(count: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        on_progress(count)

    task = asyncio.ensure_future(asyncio.to_thread(work, check))
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        stopped.set()
        await asyncio.wait([task])
        task.exception()
        raise
    return task.result()


def _summed(report: Callable[[int], None], total_bytes: int) -> Callable[[int], None]:
    """Returns what is told of more bytes, and reports all of them; what is done twice is not more than all."""
    done_bytes = 0

    def add(count: int) -> None:
        nonlocal done_bytes
        done_bytes = min(done_bytes + count, total_bytes)
        report(done_bytes)

    return add
