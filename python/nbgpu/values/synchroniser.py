"""Keeps a notebook's values and a session's the same: what to send with a cell, and what to do with what comes back."""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import xxhash

from nbgpu.client.connection import Message
from nbgpu.errors import NoSuchBlobError
from nbgpu.values.account import Account, account
from nbgpu.values.closure import NotebookNames
from nbgpu.values.errors import InputError, PythonMismatchError, SessionAnswerError, StaleHandleError, size_in_words
from nbgpu.values.gathering import NOTICE_BYTES, REFUSE_BYTES, Gathered, Gatherer, too_large
from nbgpu.values.handle import Handle, Home
from nbgpu.values.in_place import can_update_in_place, uninterrupted, update_in_place
from nbgpu.values.modules import find_module
from nbgpu.values.names import CellNames
from nbgpu.values.transfer import Transfer
from nbgpu_kernel.values.adoption import Adoption
from nbgpu_kernel.values.blob_files import MissingBlobError
from nbgpu_kernel.values.definitions import Definitions, resolve_object
from nbgpu_kernel.values.encoding import Encoded, scan
from nbgpu_kernel.values.exchange import (
    UndecodableError,
    content_digest,
    group_by_sharing,
    load,
    note_definitions,
    pack_definitions,
)
from nbgpu_kernel.values.messages import MalformedMessageError, check_answer, check_reply
from nbgpu_kernel.values.packing import Packer, Part, Unpacker

RETURN_BYTES = 16 << 20
"""Values up to this size come back by value, larger ones as handles."""
_MISSING = object()


@dataclass(frozen=True)
class Wish:
    """What is to be synchronised around a cell.

    Args:
        reads: Names that the cell reads.
        mentioned: Attributes that it mentions.
        binds: Names that it may bind.
        certain: Of these, the ones that it binds whenever it comes to its end.
        mutated: Names of objects that it is seen to change.
        given: Values to be sent under names of their own.
        send: Names that the person named to be sent, whatever their size.
        bring: Names that the person named to come back by value, whatever their size.
        fetch: Ids of objects whose values are wanted.
        keep: Names that are to come back as handles.
        watches: Whether what the cell reads comes back if it changes it in place.
    """

    reads: frozenset[str] = frozenset()
    mentioned: frozenset[str] = frozenset()
    binds: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    send: tuple[str, ...] = ()
    bring: tuple[str, ...] = ()
    fetch: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    certain: frozenset[str] = frozenset()
    mutated: frozenset[str] = frozenset()
    watches: bool = True

    @classmethod
    def of_cell(cls, names: CellNames | None, send: Sequence[str], bring: Sequence[str]) -> Wish:
        """Returns what a cell wishes by itself; one that is no Python wishes nothing."""
        if names is None:
            return cls()
        return cls(
            frozenset(names.reads),
            frozenset(names.attributes),
            tuple(names.binds),
            send=tuple(send),
            bring=tuple(bring),
            certain=frozenset(names.certain),
            mutated=frozenset(names.mutated),
        )


@dataclass(frozen=True)
class _Known:
    """What a name was bound to here when both sides had the same."""

    digest: str
    token: str
    group: frozenset[str]
    """The names that it was sent together with, itself included."""
    size_bytes: int = 0
    structure: str = ""
    """A digest of what the group's values share, which can change while none looks different; empty: not known."""


@dataclass
class Outgoing:
    """What goes with a cell."""

    request: dict[str, Any]
    """The field `values` of the request's metadata; empty if there is nothing to be synchronised."""
    buffers: list[bytes]
    sent: dict[str, _Known]
    definitions: dict[str, str]
    before: dict[str, Any]
    """What the names that may come back were bound to here when the cell was sent."""
    released: list[str]
    lent: list[str] = field(default_factory=list)
    """What waits in the node's store to be taken by the session's kernel."""


class Synchroniser:
    """What a notebook and one session's kernel have in common. For the thread that runs the cells.

    Args:
        names: What the notebook defines.
        definitions: Its classes.
        home: Returns the session's kernel as it is now.
        python_version: Of the session.
        transfer: To and from the node's store.
        fetch: Brings the value of a handle.
        tell: Says one line to the person.
        notebook_id: By which the session's kernel knows the notebook across restarts of this process; "" for none.
        look: What handles ask of their objects.
    """

    def __init__(
        self,
        names: NotebookNames,
        definitions: Definitions,
        home: Callable[[], Home],
        python_version: Callable[[], str],
        transfer: Transfer,
        fetch: Callable[[Handle], Any],
        tell: Callable[[str], None],
        notebook_id: str = "",
        look: Callable[[Handle], dict[str, Any] | None] = lambda handle: None,
    ) -> None:
        self.lock = threading.RLock()
        """Held from `prepare` until what came back is bound: there is one account of what both sides have."""
        self._notebook_id = notebook_id
        self._look = look
        self._names = names
        self._definitions = definitions
        self._home = home
        self._python_version = python_version
        self._transfer = transfer
        self._fetch = fetch
        self._tell = tell
        self._gatherer = Gatherer(names, definitions, self._reduce)
        self._generation = home().generation
        self._known: dict[str, _Known] = {}
        self._known_definitions: dict[str, str] = {}
        self._released: list[str] = []
        self._handles: weakref.WeakValueDictionary[str, Handle] = weakref.WeakValueDictionary()
        """One an object, which is released with the last that refers to it."""

    def account(self) -> Account:
        """Returns what both sides have; from any thread, and while a cell runs as it was before."""
        home = self._home()
        return account(self._names.namespace, self._known if home.generation == self._generation else {}, home)

    def forget(self) -> None:
        """Has everything sent again: the kernel is another, or somebody else changed what it has."""
        self._known.clear()
        self._known_definitions.clear()

    # -- In --------------------------------------------------------------------------------------------------------

    def prepare(self, wish: Wish) -> Outgoing:
        """Encodes what the session does not have, and puts what is large into the node's store.

        Raises:
            NotPicklableError, TooLargeError, NotDefinedError, StaleHandleError, PythonMismatchError: Nothing is sent.
        """
        if self._home().generation != self._generation:
            self.forget()
            self._generation = self._home().generation
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
        request["release"] = released = self._released[:]
        names = dict.fromkeys([*binds, *request["watched"], *wish.bring, *wish.keep])
        before = {name: namespace.get(name, _MISSING) for name in names}
        return Outgoing(request, buffers, sent, definitions, before, released, lent)

    def _add_values(
        self, request: dict[str, Any], gathered: Gathered, named: Sequence[str], lent: list[str]
    ) -> tuple[dict[str, _Known], list[bytes], dict[str, str]]:
        tokens: dict[str, str] = {}
        request["known"] = known = dict[str, str]()
        request["modules"] = modules = dict[str, list[str]]()
        sent: dict[str, _Known] = {}
        for name, to_import in gathered.modules.items():
            digest = f"import {' '.join(to_import)}"
            if (before := self._known.get(name)) is not None and before.digest == digest:
                known[name] = before.token
                continue
            modules[name] = to_import
            tokens[name] = digest
            sent[name] = _Known(digest, digest, frozenset([name]))
        groups = group_by_sharing(gathered.encoded)
        self._refuse_large(groups, gathered, named)
        packer = Packer()
        request["parcels"] = parcels = list[dict[str, Any]]()
        sizes: dict[str, int] = {}
        for names in map(sorted, groups):
            digests = {name: content_digest(gathered.encoded[name], xxhash.xxh3_128) for name in names}
            values = {name: gathered.values[name] for name in names}
            if all(self._is_known(name, digests[name], names, gathered) for name in names) and self._is_shared(values):
                known.update({name: self._known[name].token for name in names})
                self._forget_separated(names, gathered)
                continue
            encoded, structure = gathered.encoded[names[0]], ""
            if len(names) > 1:
                encoded = self._gatherer.encode_together(values.values())
                structure = _structure(encoded)
            parcels.append({"names": names, **packer.add(encoded)})
            sizes.update({name: gathered.encoded[name].size_bytes for name in names if name not in gathered.aliases})
            for name in names:
                tokens[name] = f"notebook {digests[name]}"
                size_bytes = gathered.encoded[name].size_bytes
                sent[name] = _Known(digests[name], tokens[name], frozenset(names), size_bytes, structure)
        request["definitions"] = pack_definitions(gathered.definitions, self._known_definitions, packer)
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
            > (self._known[name].size_bytes if name in self._known else -1)
        }
        if sum(sizes.values()) > REFUSE_BYTES:
            raise too_large(sizes, gathered.via)

    def _is_known(self, name: str, digest: str, group: Sequence[str], gathered: Gathered) -> bool:
        known = self._known.get(name)
        return (
            known is not None
            and known.digest == digest
            and known.group.issuperset(group)
            # Nor does it share anything over there with what is apart from it here now, and may well look the same.
            and not any(other in gathered.encoded and other not in group for other in known.group)
        )

    def _is_shared(self, values: Mapping[str, Any]) -> bool:
        """Says whether a group's values, each of which is known, share what they shared when they were.

        Where only some of the group are read that is not known, and taken for granted.
        """
        structures = {self._known[name].structure for name in values if self._known[name].group == values.keys()}
        if len(values) == 1 or not structures - {""}:
            return True
        return structures == {_structure(self._gatherer.encode_together(values.values()))}

    def _forget_separated(self, group: Sequence[str], gathered: Gathered) -> None:
        """Has what shared something with the group, and does no longer, sent when it is next read.

        It is as it was here, but a change of the group in the session changes it there.
        """
        for name in self._known[group[0]].group.difference(group) & self._known.keys():
            ids = set().union(*(gathered.encoded[each].mutable_ids() for each in group))
            value = self._names.namespace.get(name)
            if not ids & scan(value, self._definitions, self._reduce).mutable_ids():
                del self._known[name]

    def _reduce(self, obj: Any) -> Any:
        if type(obj) is not Handle:
            return NotImplemented
        home = self._home()
        if obj.home.session_id != home.session_id:
            raise StaleHandleError(
                f"the object of {obj!r} is in another session than {home.session_id}, in which the cell runs",
                "run the cell in that session, or take the value with .fetch()",
            )
        if obj.home.generation != home.generation:
            raise StaleHandleError(f"the object of {obj!r} is gone: the session has a fresh kernel since")
        return resolve_object, (obj.id,)

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

    def discard(self, outgoing: Outgoing) -> None:
        """Removes from the node's store what was for the session's kernel alone, and was not taken."""
        self._transfer.discard(outgoing.lent)

    # -- What the kernel says of it --------------------------------------------------------------------------------

    def accepted(self, outgoing: Outgoing, reply: Mapping[str, Any]) -> bool:
        """Takes note of what the session has now; returns False if it has to be sent again.

        Raises:
            InputError: A value cannot be put together over there. The cell has not run.
            SessionAnswerError: It says nonsense.
        """
        if not outgoing.request:
            return True
        answer = reply.get("nbgpu_values")
        if answer is None:
            self.forget()  # an interrupt, or the kernel's end, came before anything was bound
            return True
        try:
            check_reply(answer)
        except MalformedMessageError as error:
            self.forget()
            raise SessionAnswerError(f"what the session says of its values cannot be understood: {error}") from error
        if answer["bound"]:
            self._known.update(outgoing.sent)
            self._known_definitions.update(outgoing.definitions)
            del self._released[: len(outgoing.released)]
            for name in answer["overwritten"]:
                self._tell(f"`{name}` was changed here and in the session; the notebook's is used")
            for name, other in answer["separated"]:
                self._tell(
                    f"`{name}` was changed here, and is sent anew; `{other}`, which stays in the session, goes on with"
                    f" the one before: make `{other}` again, or change `{name}` in a `%%gpu` cell"
                )
            return True
        if "stale" in answer:
            for name in answer["stale"]:
                self._known.pop(name, None)
            if not answer["stale"]:
                self.forget()
            return False
        name, ename, evalue = answer["name"], answer["ename"], answer["evalue"]
        if ename in ("ModuleNotFoundError", "ImportError"):
            raise InputError(
                f"`{name}` needs what the session does not have: {ename}: {evalue}",
                "install it there, or run the cell with --no-sync",
            )
        raise InputError(f"`{name}` cannot be put together in the session: {ename}: {evalue}")

    # -- Out -------------------------------------------------------------------------------------------------------

    def receive(self, message: Message | None, outgoing: Outgoing | None = None) -> Incoming:
        """Puts together what came back. Nothing is bound yet.

        Args:
            outgoing: What it is the answer to, if it is to be bound: objects that were changed in place over there have
                their new attributes then, which `Incoming.adoption` can take from them again.

        Raises:
            SessionAnswerError: It is no answer. Nothing has been put together.
        """
        if message is None or (outgoing is not None and not outgoing.request):
            return Incoming()  # what nobody asked for is not unpickled
        try:
            content = check_answer(message.content(), len(message.buffers))
        except MalformedMessageError as error:
            raise SessionAnswerError(f"what the session says of its values cannot be understood: {error}") from error
        before = outgoing.before if outgoing is not None else {}
        adoption = Adoption({name: before[name] for name in content["in_place"] if name in before})
        try:
            return self._receive(message, content, outgoing, adoption)
        except BaseException:
            with uninterrupted():
                adoption.undo()
            self._transfer.discard([place["blob"] for place in content["places"] if "blob" in place])
            raise

    def _receive(
        self, message: Message, content: Mapping[str, Any], outgoing: Outgoing | None, adoption: Adoption
    ) -> Incoming:
        failed: dict[str, UndecodableError] = {}
        values = self._put_together(message, content, failed, adoption)
        with contextlib.suppress(Exception):  # else they are sent again, which costs little
            self._known_definitions.update(note_definitions(content["definitions"], self._definitions, self._reduce))
        groups = {name: frozenset(parcel["names"]) for parcel in content["parcels"] for name in parcel["names"]}
        modules = {}
        for name, module_name in content["modules"].items():
            if outgoing is not None and name not in outgoing.before:
                continue
            module = find_module(module_name)
            if module is None:
                failed[name] = UndecodableError(name, "ModuleNotFoundError", f"no module named {module_name!r} here")
            else:
                modules[name] = module
        handles = {name: self._handle(described) for name, described in content["handles"].items()}
        found = {**values, **modules, **handles}
        in_place, refused, left = content["in_place"], content["refused"], content["left"]
        return Incoming(found, content["tokens"], groups, failed, in_place, refused, left, adoption)

    def _put_together(
        self, message: Message, content: Mapping[str, Any], failed: dict[str, UndecodableError], adoption: Adoption
    ) -> dict[str, Any]:
        names = [name for parcel in content["parcels"] for name in parcel["names"]]
        if names and content["python"] != list(sys.version_info[:2]) and not content.get("plain"):
            why = f"it is of Python {'.'.join(map(str, content['python']))}"
            failed.update({name: UndecodableError(name, "PythonMismatchError", why) for name in names})
            return {}
        sizes = {place["blob"]: place["bytes"] for place in content["places"] if "blob" in place}
        try:
            unpacker = Unpacker(content["places"], message.buffers, self._fetch_part(sizes))
        except (MissingBlobError, NoSuchBlobError, MemoryError) as error:  # its time was over before it was fetched
            why = str(error) or f"there is no memory for {size_in_words(sum(sizes.values()))}"
            kind = "MemoryError" if isinstance(error, MemoryError) else "MissingBlobError"
            failed.update({name: UndecodableError(name, kind, why) for name in names})
            return {}
        return load(content, unpacker, self._definitions, {}, failed=failed, adoption=adoption)

    def _handle(self, described: dict[str, Any]) -> Handle:
        """Returns the handle of an object: the one that there is, for as long as it is the same kernel's."""
        found = self._handles.get(described["id"])
        if found is None or found.home != self._home():
            release = self._released.append
            found = Handle(described["id"], described, self._home(), self._fetch, release, self._look)
            self._handles[found.id] = found
        while found.id in self._released:
            self._released.remove(found.id)  # of one before it, which is gone
        return found

    def _fetch_part(self, sizes: Mapping[str, int]) -> Callable[[str], memoryview]:
        return lambda digest: self._transfer.get(digest, sizes[digest])

    def bind(self, incoming: Incoming, outgoing: Outgoing) -> None:
        """Binds what came back, all of it, except for names that were bound here meanwhile."""
        namespace = self._names.namespace
        bound: dict[str, Any] = {}
        updated: dict[int, tuple[Any, Any]] = {}
        for name, value in incoming.values.items():
            if name not in outgoing.before:
                continue
            before = outgoing.before[name]
            if namespace.get(name, _MISSING) is not before:
                self._tell(f"`{name}` was changed here and in the session; the notebook's is used")
                self._known.pop(name, None)
                continue
            is_alone = name in incoming.in_place and incoming.is_alone(name, outgoing.before)
            if is_alone and can_update_in_place(before, value):
                updated[id(value)] = before, value
            bound[name] = value
        for name, value in bound.items():  # other names that the session has for it
            if id(value) in updated:
                bound[name] = updated[id(value)][0]
        with uninterrupted():
            for local, value in updated.values():
                update_in_place(local, value)
            namespace.update(bound)
            incoming.adoption.keep()
        structures = self._structures(bound, incoming)
        for name, value in bound.items():
            self._note(name, value, incoming, structures.get(incoming.groups.get(name, frozenset()), ""))
        for name, why in incoming.refused.items():
            if name in bound:
                self._tell(f"`{name}` stays in the session, and is a handle here: {why}")
        for name, described in incoming.left.items():
            self._tell_left(name, described)

    def _tell_left(self, name: str, described: Mapping[str, Any]) -> None:
        size_bytes = described.get("size_bytes")
        if described["why"].startswith("ValueTooLargeError") or (size_bytes or 0) > RETURN_BYTES:
            size = f" ({size_in_words(size_bytes)})" if size_bytes is not None else ""
            why = f"is too large to come back by itself{size}"
        else:
            why = f"cannot come back ({described['why']})"
        self._tell(
            f"`{name}` was changed in the session, and {why}: it is as it was here; `%gpu pull {name}` brings it"
        )

    def _structures(self, bound: Mapping[str, Any], incoming: Incoming) -> dict[frozenset[str], str]:
        found = {}
        for group in set(incoming.groups.values()):
            if len(group) > 1 and group <= bound.keys():
                with contextlib.suppress(Exception):  # as in `_note`
                    encoded = self._gatherer.encode_together(bound[name] for name in sorted(group))
                    found[group] = _structure(encoded)
        return found

    def _note(self, name: str, value: Any, incoming: Incoming, structure: str) -> None:
        token = incoming.tokens.get(name)
        self._known.pop(name, None)
        if token is None:
            return
        size_bytes = 0
        if isinstance(value, ModuleType):
            digest = f"import {ModuleType.__getattribute__(value, '__name__')}"
        else:
            try:
                encoded = self._gatherer.encode(value, limit_bytes=REFUSE_BYTES)
            except Exception:  # noqa: BLE001 - it is sent again then, or the next cell says why it cannot be
                return
            digest, size_bytes = content_digest(encoded, xxhash.xxh3_128), encoded.size_bytes
        group = incoming.groups.get(name, frozenset([name]))
        self._known[name] = _Known(digest, token, group, size_bytes, structure)


def _structure(encoded: Encoded) -> str:
    found = xxhash.xxh3_128()
    for segment in encoded.segments:
        found.update(segment)
    return found.hexdigest()


@dataclass
class Incoming:
    """What came back, put together."""

    values: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)
    groups: dict[str, frozenset[str]] = field(default_factory=dict)
    failed: dict[str, UndecodableError] = field(default_factory=dict)
    """What cannot be put together here."""
    in_place: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    """What was named to come by value and cannot."""
    left: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was changed in the session, stays there, and is something else here: why, and what it is."""
    adoption: Adoption = field(default_factory=lambda: Adoption({}))

    def is_alone(self, name: str, before: Mapping[str, Any]) -> bool:
        """Says whether nothing else that came refers to what came under this name, but other names of it.

        Args:
            before: What the names were bound to here. Those of one object in the session can be of two here.
        """
        value = self.values[name]
        return all(
            self.values.get(each) is value and (each not in self.in_place or before.get(each) is before[name])
            for each in self.groups.get(name, ())
        )
