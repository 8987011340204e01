"""The part of the agent's configuration that says as whom sessions run, and what they see."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from traitlets import Dict, Enum, HasTraits, List, Unicode, default

from nbgpu_agent.errors import InvalidRequestError
from nbgpu_agent.folders import AgentFolders
from nbgpu_agent.isolation.bubblewrap import (
    HOMES_FOLDER,
    Bubblewrap,
    UserFolders,
    find_program,
    problem_of_bubblewrap,
)
from nbgpu_agent.isolation.choosing import SHARED_WORDS, Isolation, find_named, open_agent_folder, problem_of
from nbgpu_agent.isolation.os_user import OsUser, passable
from nbgpu_agent.isolation.user_ids import DEFAULT_RANGE, UserIds, parse_range

AUTO, USERS, BUBBLEWRAP, NONE = "auto", "users", "bubblewrap", "none"
FOLDER_VARIABLE = "NBGPU_OS_USERS_FOLDER"
DEFAULT_FOLDER = "/var/lib/nbgpu"
_PACKAGES = Path(__file__).resolve().parent.parent.parent


class IsolationSettings(HasTraits):
    """What the owner of a machine says of the operating system's users."""

    isolation: Any = Enum(
        (AUTO, USERS, BUBBLEWRAP, NONE),
        AUTO,
        help="Whether sessions of different users run as different `users` of the operating system, which takes root,"
        " or in sandboxes of `bubblewrap`, which takes bwrap: either or not at all; `auto`: the one that can be, and"
        " else none with a warning; `none`. With TLS, which users come by.",
    ).tag(config=True)
    shared_folders: Any = List(
        Unicode(),
        help="Folders that sessions in sandboxes may write to, such as /scratch, as far as the agent itself may. All of"
        " the system but homes they may read.",
    ).tag(config=True)
    visible_folders: Any = List(
        Unicode(), help="Folders in homes that sessions in sandboxes may read, such as /home/data."
    ).tag(config=True)
    os_users: Any = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="As whom sessions run, such as {'ada': 'ada'}: names of users, and of the operating system's users. The"
        " others get user ids of their own; '' is the owner, who otherwise runs sessions as the agent.",
    ).tag(config=True)
    os_user_ids: Any = Unicode(DEFAULT_RANGE, help="User ids that are given to users whom os_users does not name.").tag(
        config=True
    )
    os_users_folder: Any = Unicode(
        help="Folder of their user ids and homes, and of the agent's own folder unless --folder says another; everybody"
        f" must be able to pass through to it. By default what {FOLDER_VARIABLE} names, else {DEFAULT_FOLDER}.",
    ).tag(config=True)

    @default("os_users_folder")
    def _default_os_users_folder(self) -> str:
        return os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER

    def may_isolate(self, *, tls: bool) -> bool:
        """Says whether this agent separates users, where nothing stands against it."""
        return tls and self.isolation != NONE and os.geteuid() == 0

    def find_isolation(
        self, folders: AgentFolders, realm: Path, *, tls: bool, secrets: Iterable[Path] = ()
    ) -> Isolation:
        """Looks at what can be, and prepares the agent's folder for it. Before anything else is done there.

        Args:
            folders: The agent's.
            realm: The folder of the certificates and users.
            tls: Whether there are users at all.
            secrets: Files that no session is to see, beside what is in these two.

        Raises:
            InvalidRequestError: It cannot be, and must; or a setting is wrong.
        """
        if not tls or self.isolation == NONE:
            if self.isolation in (USERS, BUBBLEWRAP):
                raise InvalidRequestError(
                    "there are no users to isolate from each other without TLS", "add --tls, after `nbgpu agent init`"
                )
            return Isolation()
        if self.isolation == BUBBLEWRAP or (self.isolation == AUTO and os.geteuid() != 0):
            return self._find_bubblewrap(folders, (folders.root, realm.absolute(), *secrets))
        from uv import find_uv_bin

        numbers = parse_range(self.os_user_ids)
        named = find_named(self.os_users)
        probe = OsUser("probe", numbers[-1], numbers[-1], Path("/"))
        place = Path(self.os_users_folder).expanduser().absolute()
        needed = (_PACKAGES / "nbgpu_kernel", Path(os.fsdecode(find_uv_bin())), place.parent)
        problem, hint = problem_of(probe, sys.executable, needed, folders.root)
        if problem and self.isolation == USERS:
            raise InvalidRequestError(f"users cannot be isolated from each other: {problem}", hint)
        if problem:
            return Isolation(problem=f"{SHARED_WORDS}: {problem}", hint=hint)
        open_agent_folder(folders.root, folders.passed_by_users)
        if passable(place).stat().st_uid != os.geteuid():
            raise InvalidRequestError(
                f"{place} belongs to another user, who could give user ids away", "choose another os_users_folder"
            )
        return Isolation(UserIds(place, numbers, str(realm.absolute())), named)

    def _find_bubblewrap(self, folders: AgentFolders, secret: tuple[Path, ...]) -> Isolation:
        bubblewrap = Bubblewrap(
            find_program(),
            blobs=UserFolders(folders.blobs, folders.users_blobs),
            environments=UserFolders(folders.environments, folders.users_environments),
            homes=folders.root / HOMES_FOLDER,
            secret=secret,
            shared=_folders(self.shared_folders),
            visible=_folders(self.visible_folders),
        )
        problem, hint = problem_of_bubblewrap(bubblewrap)
        if not problem:
            return Isolation(bubblewrap=bubblewrap)
        if self.isolation == BUBBLEWRAP:
            raise InvalidRequestError(f"sessions cannot be put into sandboxes: {problem}", hint)
        return Isolation(
            problem=f"{SHARED_WORDS}: the agent does not run as root, and {problem}",
            hint=f"{hint}; or start it as root, or give each user an agent of their own",
        )


def _folders(paths: Iterable[str]) -> tuple[Path, ...]:
    return tuple(Path(path).expanduser().absolute() for path in paths)
