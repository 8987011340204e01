"""Blobs by user: nobody gets, or learns of, what another has put."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from nbgpu_agent.blobs import DEFAULT_LIMIT_BYTES, BlobStore
from nbgpu_agent.identity.caller import Caller, current_caller
from nbgpu_agent.isolation.choosing import Isolation

USERS_FOLDER = "blobs-of-users"
"""Beside the owner's store; in it a store for each user."""


def folder_of(owners: Path, user: str) -> Path:
    """Returns the folder of a user's store.

    Args:
        owners: That of the owner's.
        user: Their name, as `UserStore` allows it; empty: the owner.
    """
    return owners.with_name(USERS_FOLDER) / user if user else owners


class UserBlobs(BlobStore):
    """The stores of all users, each of which is the one there is to its user.

    Args:
        folder: Of the owner's store.
        limit_bytes: Of each user's blobs.
        caller: Returns who calls.
        isolation: As whom their sessions run, whose the stores are.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        caller: Callable[[], Caller] = current_caller,
        isolation: Isolation | None = None,
    ) -> None:
        self._isolation = isolation or Isolation()
        super().__init__(folder, limit_bytes=limit_bytes, os_user=self._isolation.os_user(""))
        self._stores: dict[str, BlobStore] = {}
        self._caller = caller

    def missing(self, digests: Iterable[str]) -> list[str]:
        return self._own().missing(digests)

    async def put(self, digest: str, chunks: AsyncIterator[bytes]) -> None:
        await self._own().put(digest, chunks)

    def get(self, digest: str) -> AsyncIterator[bytes]:
        return self._own().get(digest)

    def path_of(self, digest: str) -> Path:
        return self._own().path_of(digest)

    def open(self, digest: str) -> BinaryIO:
        return self._own().open(digest)

    def _own(self) -> BlobStore:
        user = self._caller().user
        store = self._stores.get(user)
        if store is None:
            os_user = self._isolation.os_user(user)
            store = BlobStore(folder_of(self._folder, user), limit_bytes=self._limit_bytes, os_user=os_user)
            self._stores[user] = store
        return store
