"""Keeps a notebook's values and a session's the same: what to send with a cell, and what to do with what comes back."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from nbgpu.client.connection import Message
from nbgpu.errors import NoSuchBlobError
from nbgpu.values.account import Account, account
from nbgpu.values.closure import NotebookNames
from nbgpu.values.errors import InputError, SessionAnswerError, size_in_words
from nbgpu.values.gathering import Gatherer
from nbgpu.values.handle import Handle, Home
from nbgpu.values.handles import Handles
from nbgpu.values.in_place import can_update_in_place, uninterrupted, update_in_place
from nbgpu.values.incoming import Incoming
from nbgpu.values.ledger import Ledger
from nbgpu.values.modules import find_module
from nbgpu.values.outgoing import MISSING, RETURN_BYTES, Departures, Outgoing
from nbgpu.values.transfer import Transfer
from nbgpu.values.wish import Wish
from nbgpu_kernel.values.adoption import Adoption
from nbgpu_kernel.values.blob_files import MissingBlobError
from nbgpu_kernel.values.definitions import Definitions
from nbgpu_kernel.values.exchange import UndecodableError, load, note_definitions
from nbgpu_kernel.values.messages import MalformedMessageError, check_answer, check_reply
from nbgpu_kernel.values.packing import Unpacker


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
        self._names = names
        self._definitions = definitions
        self._home = home
        self._transfer = transfer
        self._tell = tell
        self._handles = Handles(home, fetch, look)
        gatherer = Gatherer(names, definitions, self._handles.reduce)
        self._ledger = Ledger(gatherer, home())
        self._departures = Departures(names, gatherer, self._ledger, python_version, transfer, tell, notebook_id)

    def account(self) -> Account:
        """Returns what both sides have; from any thread, and while a cell runs as it was before."""
        home = self._home()
        return account(self._names.namespace, self._ledger.names if self._ledger.is_of(home) else {}, home)

    def forget(self) -> None:
        """Has everything sent again: the kernel is another, or somebody else changed what it has."""
        self._ledger.forget()

    def prepare(self, wish: Wish) -> Outgoing:
        """Encodes what the session does not have, and puts what is large into the node's store.

        Raises:
            NotPicklableError, TooLargeError, NotDefinedError, StaleHandleError, PythonMismatchError: Nothing is sent.
        """
        self._ledger.turn_to(self._home())
        return self._departures.prepare(wish, self._handles.released)

    def discard(self, outgoing: Outgoing) -> None:
        """Removes from the node's store what was for the session's kernel alone, and was not taken."""
        self._transfer.discard(outgoing.lent)

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
            self._ledger.names.update(outgoing.sent)
            self._ledger.definitions.update(outgoing.definitions)
            del self._handles.released[: len(outgoing.released)]
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
                self._ledger.names.pop(name, None)
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
            self._ledger.definitions.update(
                note_definitions(content["definitions"], self._definitions, self._handles.reduce)
            )
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
        handles = {name: self._handles.of(described) for name, described in content["handles"].items()}
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
            if namespace.get(name, MISSING) is not before:
                self._tell(f"`{name}` was changed here and in the session; the notebook's is used")
                self._ledger.names.pop(name, None)
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
            group = incoming.groups.get(name, frozenset([name]))
            self._ledger.note(name, value, incoming.tokens.get(name), group, structures.get(group, ""))
        for name, why in incoming.refused.items():
            if name in bound:
                self._tell(f"`{name}` stays in the session, and is a handle here: {why}")
        for name, described in incoming.left.items():
            self._tell_left(name, described)

    def _structures(self, bound: Mapping[str, Any], incoming: Incoming) -> dict[frozenset[str], str]:
        found = {}
        for group in set(incoming.groups.values()):
            if len(group) > 1 and group <= bound.keys():
                with contextlib.suppress(Exception):  # they are sent again then
                    found[group] = self._ledger.structure(bound[name] for name in sorted(group))
        return found

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
