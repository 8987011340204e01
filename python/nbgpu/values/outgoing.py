"""What goes to a session with a cell: what the cell wants, less what the session has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from nbgpu.values.closure import NotebookNames
from nbgpu.values.errors import PythonMismatchError, size_in_words
from nbgpu.values.gathering import NOTICE_BYTES, REFUSE_BYTES, Gathered, Gatherer, too_large
from nbgpu.values.ledger import Known, Ledger, structure_of
from nbgpu.values.transfer import Transfer
from nbgpu.values.wish import Wish
from nbgpu_kernel.values.exchange import content_digest, group_by_sharing, pack_definitions
from nbgpu_kernel.values.packing import Packer, Part

RETURN_BYTES = 16 << 20
"""Values up to this size come back by value, larger ones as handles."""
MISSING = object()
"""In the place of the value of a name that is not bound."""


@dataclass
class Outgoing:
    """What goes with a cell."""

    request: dict[str, Any]
    """The field `values` of the request's metadata; empty if there is nothing to be synchronised."""
    buffers: list[bytes]
    sent: dict[str, Known]
    definitions: dict[str, str]
    before: dict[str, Any]
    """What the names that may come back were bound to here when the cell was sent."""
    released: list[str]
    lent: list[str] = field(default_factory=list)
    """What waits in the node's store to be taken by the session's kernel."""


class Departures:
    """Prepares what goes to one session.

    Args:
        names: What the notebook defines.
        gatherer: Encodes it.
        ledger: What the session has.
        python_version: Of the session.
        transfer: To the node's store.
        tell: Says one line to the person.
        notebook_id: By which the session's kernel knows the notebook; "" for none.
    """

    def __init__(
        self,
        names: NotebookNames,
        gatherer: Gatherer,
        ledger: Ledger,
        python_version: Callable[[], str],
        transfer: Transfer,
        tell: Callable[[str], None],
        notebook_id: str,
    ) -> None:
        self._names = names
        self._gatherer = gatherer
        self._ledger = ledger
        self._python_version = python_version
        self._transfer = transfer
        self._tell = tell
        self._notebook_id = notebook_id

    def prepare(self, wish: Wish, released: Sequence[str]) -> Outgoing:
        """Encodes what the session does not have, and puts what is large into the node's store.

        Args:
            wish: What the cell wants.
            released: Ids of objects of the session to which nothing refers here any more.

        Raises:
            NotPicklableError, TooLargeError, NotDefinedError, StaleHandleError, PythonMismatchError: Nothing is sent.
        """
        gathered = self._gatherer.gather(wish.reads, wish.mentioned, wish.given, wish.send, with_aliases=wish.watches)
        binds = [name for name in dict.fromkeys([*wish.binds, *gathered.binds]) if self._names.may_bind(name)]
        wanted = (binds, wish.bring, wish.fetch, wish.keep)
        if not gathered.encoded and not gathered.modules and not any(wanted):
            return Outgoing({}, [], {}, {}, {}, [])
        plain = self._is_plain_only(gathered)
        namespace = self._names.namespace
        request: dict[str, Any] = {
            "notebook": self._notebook_id,
            "plain": plain,
            "outputs": binds,
            "certain": [name for name in binds if name in wish.certain],
            "lacks": [name for name in binds if name not in namespace],
            "force": list(wish.bring),
            "fetch": list(wish.fetch),
            "by_handle": list(wish.keep),
            "watched": [name for name in gathered.encoded if self._names.may_bind(name)] if wish.watches else [],
            "mutated": [name for name in gathered.encoded if name in wish.mutated],
            "limit_bytes": RETURN_BYTES,
        }
        lent: list[str] = []
        try:
            sent, buffers, definitions = self._add_values(request, gathered, wish.send, lent)
        except BaseException:
            self._transfer.discard(lent)
            raise
        request["release"] = list(released)
        names = dict.fromkeys([*binds, *request["watched"], *wish.bring, *wish.keep])
        before = {name: namespace.get(name, MISSING) for name in names}
        return Outgoing(request, buffers, sent, definitions, before, list(released), lent)

    def _add_values(
        self, request: dict[str, Any], gathered: Gathered, named: Sequence[str], lent: list[str]
    ) -> tuple[dict[str, Known], list[bytes], dict[str, str]]:
        tokens: dict[str, str] = {}
        request["known"] = known = dict[str, str]()
        request["modules"] = modules = dict[str, list[str]]()
        sent: dict[str, Known] = {}
        for name, to_import in gathered.modules.items():
            digest = f"import {' '.join(to_import)}"
            if (before := self._ledger.names.get(name)) is not None and before.digest == digest:
                known[name] = before.token
                continue
            modules[name] = to_import
            tokens[name] = digest
            sent[name] = Known(digest, digest, frozenset([name]))
        groups = group_by_sharing(gathered.encoded)
        self._refuse_large(groups, gathered, named)
        packer = Packer()
        request["parcels"] = parcels = list[dict[str, Any]]()
        sizes: dict[str, int] = {}
        for names in map(sorted, groups):
            digests = {name: content_digest(gathered.encoded[name], xxhash.xxh3_128) for name in names}
            values = {name: gathered.values[name] for name in names}
            if all(
                self._ledger.has(name, digests[name], names, gathered.encoded) for name in names
            ) and self._ledger.shares(values):
                known.update({name: self._ledger.names[name].token for name in names})
                self._forget_separated(names, gathered)
                continue
            encoded, structure = gathered.encoded[names[0]], ""
            if len(names) > 1:
                encoded = self._gatherer.encode_together(values.values())
                structure = structure_of(encoded)
            parcels.append({"names": names, **packer.add(encoded)})
            sizes.update({name: gathered.encoded[name].size_bytes for name in names if name not in gathered.aliases})
            for name in names:
                tokens[name] = f"notebook {digests[name]}"
                size_bytes = gathered.encoded[name].size_bytes
                sent[name] = Known(digests[name], tokens[name], frozenset(names), size_bytes, structure)
        request["definitions"] = pack_definitions(gathered.definitions, self._ledger.definitions, packer)
        request["tokens"] = tokens
        if packer.size_bytes > NOTICE_BYTES:
            largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
            listed = ", ".join(f"`{name}` ({size_in_words(sizes[name])})" for name in largest)
            self._tell(f"sending {size_in_words(packer.size_bytes)}: {listed}")

        def store(part: Part) -> str:
            lent.append(self._transfer.put(part))
            return lent[-1]

        request["places"], buffers = packer.finish(store)
        return sent, buffers, {key: each.digest for key, each in gathered.definitions.items()}

    def _refuse_large(self, groups: Iterable[Sequence[str]], gathered: Gathered, named: Sequence[str]) -> None:
        """Refuses before anything large is hashed; what was sent before may be as large as it was."""
        sizes = {
            name: size_bytes
            for names in groups
            for name in names
            if name not in named
            and name not in gathered.aliases
            and (size_bytes := gathered.encoded[name].size_bytes)
            > (self._ledger.names[name].size_bytes if name in self._ledger.names else -1)
        }
        if sum(sizes.values()) > REFUSE_BYTES:
            raise too_large(sizes, gathered.via)

    def _forget_separated(self, group: Sequence[str], gathered: Gathered) -> None:
        """Has what shared something with the group, and does no longer, sent when it is next read.

        It is as it was here, but a change of the group in the session changes it there.
        """
        for name in self._ledger.names[group[0]].group.difference(group) & self._ledger.names.keys():
            ids = set().union(*(gathered.encoded[each].mutable_ids() for each in group))
            value = self._names.namespace.get(name)
            if not ids & self._gatherer.mutable_ids(value):
                del self._ledger.names[name]

    def _is_plain_only(self, gathered: Gathered) -> bool:
        """Says whether only plain data is exchanged: the session runs another minor version of Python.

        Raises:
            PythonMismatchError: It does, and something that the cell reads is more than that.
        """
        here, there = sys.version_info[:2], self._python_version()
        if not there or there.split(".")[:2] == [str(part) for part in here]:
            return False
        for name, encoded in gathered.encoded.items():
            if encoded.carries_code():
                raise PythonMismatchError(
                    f"`{name}` holds what Python {here[0]}.{here[1]} compiled here, and the session runs Python {there}"
                )
        return True
