"""Plans and builds environments from snapshots, with uv, in the store."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from nbgpu_agent.blobs import BlobStore
from nbgpu_agent.environments.base import BaseReader
from nbgpu_agent.environments.building import Builder
from nbgpu_agent.environments.estimate import FROM_AN_INDEX
from nbgpu_agent.environments.facts import NodeSurvey
from nbgpu_agent.environments.plan import NodeFacts, Pins, Plan, Resolution
from nbgpu_agent.environments.planning import choose_python, make_pins, make_plan, split_known, version_key
from nbgpu_agent.environments.progress import OnProgress, Progress
from nbgpu_agent.environments.resolution import resolve
from nbgpu_agent.environments.store import Environment, EnvironmentStore
from nbgpu_agent.environments.uv import Uv
from nbgpu_agent.environments.wheel_sizes import find_sizes
from nbgpu_agent.errors import EnvironmentImpossibleError, InvalidRequestError, NoSpaceError
from nbgpu_agent.isolation.os_user import acting
from nbgpu_protocol.snapshot import Origin, Snapshot, SnapshotFormatError, digest_of_bytes, snapshot_from_bytes

_MAX_SNAPSHOT_BYTES = 32 << 20
_MAX_KEPT_PLANS = 64
_COPIED_BYTES = 1 << 20


class Materialiser:
    """Turns snapshots into environments. For one event loop.

    Args:
        blobs: Where snapshots, and the wheels that come with them, are put by clients.
        driver_version: NVIDIA's; None without a GPU.
        base_folder: A virtual environment that the node's owner provides; None if there is none.
    """

    def __init__(
        self,
        store: EnvironmentStore,
        blobs: BlobStore,
        uv: Uv,
        driver_version: str | None,
        base_folder: Path | None = None,
    ) -> None:
        self.store = store
        self._blobs = blobs
        self._uv = uv
        self._builder = Builder(uv)
        self._base = BaseReader(base_folder) if base_folder is not None else None
        self._survey = NodeSurvey(uv, Path(os.path.sep), driver_version, self._base)
        self._built: dict[str, str] = {}

    async def read_snapshot(self, digest: str) -> Snapshot:
        """Returns the snapshot of that digest.

        Raises:
            NoSuchBlobError: It was not put here.
            InvalidRequestError: It is no snapshot.
        """
        content = bytearray()
        async with contextlib.aclosing(self._blobs.get(digest)) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                content += chunk
                if len(content) > _MAX_SNAPSHOT_BYTES:
                    raise InvalidRequestError(f"the snapshot has more than {_MAX_SNAPSHOT_BYTES >> 20} MiB")
        try:
            return snapshot_from_bytes(bytes(content))
        except SnapshotFormatError as error:
            raise InvalidRequestError(
                str(error), "upgrade nbgpu where the notebook or the agent has the older one"
            ) from error

    async def plan(self, snapshot: Snapshot) -> Plan:
        """Returns what building it here would take; changes nothing but uv's cache of metadata.

        Raises:
            EnvironmentImpossibleError: There is no fitting interpreter.
            NoSuchBlobError: A wheel that it names was not put here.
            BuildFailedError: uv fails, or an index does not answer.
        """
        with _disk_errors(), self.store.temporary_folder() as folder:
            return await self._plan(snapshot, folder, with_sizes=True)

    async def check_base(self) -> None:
        """Looks at the environment that the node's owner provides.

        Raises:
            InvalidRequestError: It cannot be used.
        """
        if self._base is not None:
            await self._base.read()

    async def materialise(self, snapshot: Snapshot, on_progress: OnProgress, running: str = "") -> Environment:
        """Returns the environment, built if it is not there, and marked as in use: release it in the store.

        Cancelled, it ends uv, and leaves nothing.

        Args:
            running: As of `choose_python`.

        Raises:
            EnvironmentImpossibleError: Some distributions, all of which are named, or the interpreter cannot be had.
            NoSuchBlobError: A wheel that it names was not put here.
            BuildFailedError: The build fails.
        """
        base = await self._base.read() if self._base is not None else None
        kept_python = running if snapshot.any_python else None
        parts = [snapshot.python_version, kept_python, repr(snapshot.distributions), repr(base)]
        key = digest_of_bytes(json.dumps(parts).encode())
        known = self._built.get(key)
        if known is not None and (environment := self.store.find(known)) is not None:
            self.store.acquire(environment.id)
            return environment
        with _disk_errors(), self.store.temporary_folder() as folder:
            on_progress(Progress(0, 0, "Comparing the environment with the node's"))
            plan = await self._plan(snapshot, folder, running)
            refuse_impossible(plan)

            async def build(target: Path) -> None:
                await self._builder.build(plan, target, folder, on_progress)

            self.store.acquire(plan.environment_id)
            try:
                environment = await self.store.add(plan.environment_id, build)
            except BaseException:
                self.store.release(plan.environment_id)
                raise
        self._built[key] = environment.id
        while len(self._built) > _MAX_KEPT_PLANS:
            del self._built[next(iter(self._built))]
        return environment

    async def _plan(self, snapshot: Snapshot, folder: Path, running: str = "", *, with_sizes: bool = False) -> Plan:
        facts = await self._survey.facts(snapshot.python_minor)
        python = choose_python(snapshot, facts.pythons, running)
        if python is None:
            raise _no_python(snapshot, facts)
        wheels = await asyncio.to_thread(self._place_wheels, snapshot)
        facts = replace(facts, bytes_per_s=self._builder.bytes_per_s)
        pins = make_pins(snapshot, facts, python, wheels)
        resolution = await self._resolve(snapshot, facts, pins, folder)
        plan = make_plan(snapshot, facts, pins, resolution)
        if not with_sizes:
            return plan
        fetched = {each.name for each in plan.distributions if each.action in FROM_AN_INDEX and each.size_bytes is None}
        lines = [line for name, line in resolution.requirements.items() if name in fetched]
        sizes = await find_sizes(self._uv, python, lines, folder)
        sizes |= {each.name: _size(wheels[each.location]) for each in snapshot.distributions if each.location in wheels}
        return make_plan(snapshot, replace(facts, sizes=sizes), pins, resolution)

    async def _resolve(self, snapshot: Snapshot, facts: NodeFacts, pins: Pins, folder: Path) -> Resolution:
        split = split_known(snapshot, facts, pins)
        if split is None:
            return await resolve(self._uv, pins, folder)
        known, unknown = split
        if not unknown:
            return Resolution(known)
        found = await resolve(self._uv, replace(pins, requirements=unknown), folder, complete=True)
        return replace(found, requirements={**known, **found.requirements})

    def _place_wheels(self, snapshot: Snapshot) -> dict[str, Path]:
        with acting(self._uv.os_user):
            return self._place_each_wheel(snapshot)

    def _place_each_wheel(self, snapshot: Snapshot) -> dict[str, Path]:
        """Puts the wheels that came as blobs where uv finds them under their own names.

        The folder is named by the content, so that equal snapshots give equal requirements.
        """
        placed = {}
        for distribution in snapshot.distributions:
            if distribution.origin is not Origin.WHEEL:
                continue
            folder = self.store.wheels_folder / distribution.location.replace(":", "-")
            target = folder / distribution.wheel_name
            if not target.is_file():
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                partial = folder / f"{secrets.token_hex(8)}.partial"
                try:
                    with self._blobs.open(distribution.location) as source, open(partial, "xb") as copy:
                        shutil.copyfileobj(source, copy, _COPIED_BYTES)
                    os.replace(partial, target)
                finally:
                    partial.unlink(missing_ok=True)
            placed[distribution.location] = target
        return placed


def _no_python(snapshot: Snapshot, facts: NodeFacts) -> EnvironmentImpossibleError:
    versions = ", ".join(sorted({each.version for each in facts.pythons}, key=version_key, reverse=True)) or "none"
    return EnvironmentImpossibleError(
        f"the notebook runs {snapshot.implementation} {snapshot.python_version}, and this node has"
        f" no Python {snapshot.python_minor}; it has {versions}",
        "`%%gpu --python any` runs the cell on the nearest of these, with plain data but without what is defined in"
        f" the notebook; or `uv python install {snapshot.python_minor}` on the node",
    )


def _size(file: Path) -> int:
    return file.stat().st_size


def refuse_impossible(plan: Plan) -> None:
    """Refuses a plan that cannot be carried out, and names all that is in the way.

    Raises:
        EnvironmentImpossibleError: Something is impossible.
    """
    if not plan.impossible:
        return
    lines = "\n".join(f"    {each.name} {each.version}: {each.why}" for each in plan.impossible)
    count = len(plan.impossible)
    what = "1 package that the notebook has" if count == 1 else f"{count} packages that the notebook has"
    raise EnvironmentImpossibleError(
        f"this node cannot have {what}:\n{lines}",
        "install versions that it can have in the notebook, or uninstall what the cells do not need;"
        " `%gpu plan` shows the whole",
    )


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpaceError("the node's disk is full", "free some space on the node, then try again") from error
        raise
