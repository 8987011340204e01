"""The kernel's end: binds what a cell reads before it runs, and gathers what it bound or changed when it is done."""

from __future__ import annotations

import contextlib
import importlib
import platform
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from nbgpu_kernel.values.adoption import named_parts
from nbgpu_kernel.values.blob_files import BlobFiles, MissingBlobError
from nbgpu_kernel.values.definitions import Definitions, UnknownReferenceError
from nbgpu_kernel.values.encoding import Encoded, encode, scan
from nbgpu_kernel.values.exchange import (
    ATOMS,
    Definition,
    UndecodableError,
    gather_definitions,
    group_by_sharing,
    importable_name,
    load,
    note_definitions,
    pack_definitions,
)
from nbgpu_kernel.values.messages import MalformedMessageError, check_request
from nbgpu_kernel.values.objects import Objects, describe, explain
from nbgpu_kernel.values.packing import Packer, Unpacker
from nbgpu_kernel.values.tensors import ValueTooLargeError
from nbgpu_kernel.values.watching import Fingerprint, Identity, take_fingerprint

_MAX_CLIENTS = 16
_MISSING = object()


class StaleValuesError(Exception):
    """Raised when the client counts on what is not here: the kernel is another, or another client was here since.

    Args:
        names: What is to be sent again; none where that is everything.
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        super().__init__(tuple(names))
        self.names = tuple(names)


@dataclass
class _Synced:
    """What a name was bound to when both sides had the same."""

    token: str
    identity: Identity
    fingerprint: Fingerprint | None
    """None where the value cannot change in place, or cannot be looked at."""
    left: Fingerprint | None = None
    """What it was like when the client was told that it was changed, and stays here."""


@dataclass
class _Running:
    """What a cell found when it began."""

    before: dict[str, Identity]
    """What the names were bound to that it may bind."""
    verified: frozenset[str]
    """Names for which both sides had the same."""


@dataclass(frozen=True)
class Bound:
    """What there is to be said of what was bound before a cell."""

    overwritten: list[str]
    """Names that had been changed here since both sides had the same."""
    separated: list[tuple[str, str]]
    """Names that are bound anew, each with one that stays here and still shares what the first was bound to before."""


class SessionValues:
    """The values of one kernel's namespace, as the notebooks that use it know them.

    Args:
        namespace: The cells' globals.
        hidden: Names in it that are IPython's own.
        blobs: The user's store on the node; None where there is none, or none yet.
    """

    def __init__(self, namespace: dict[str, Any], hidden: Mapping[str, Any], blobs: BlobFiles | None) -> None:
        self._namespace = namespace
        self._hidden = hidden
        self._blobs = blobs
        self._definitions = Definitions(namespace)
        self._objects = Objects()
        self._synced: dict[str, _Synced] = {}
        self._outputs = 0
        self._running = _Running({}, frozenset())
        self._known: dict[str, dict[str, str]] = {}
        """Digests of the definitions that each client has; the client that was here last is the last."""
        self._notebooks: dict[str, str] = {}
        """The client that is each notebook's, as far as they have one."""

    def use_blobs(self, blobs: BlobFiles) -> None:
        """Takes large values from this store, and puts them there, from now on."""
        self._blobs = blobs

    @property
    def definitions(self) -> Definitions:
        """What this kernel's values refer to."""
        return self._definitions

    # -- In --------------------------------------------------------------------------------------------------------

    def bind(self, request: Mapping[str, Any], buffers: Sequence[Any], client: str) -> Bound:
        """Binds what came with a cell, all or nothing.

        Returns:
            What the person should know.

        Raises:
            StaleValuesError: The client has to send again.
            UndecodableError: A value cannot be put together here, or a module imported; or it is no request.
        """
        try:
            check_request(request, len(buffers))
        except MalformedMessageError as error:
            raise UndecodableError("values", type(error).__name__, f"the request has not its form: {error}") from error
        self._welcome(client, request.get("notebook", ""))
        self._objects.release(request.get("release", ()), client)
        known, tokens = request.get("known", {}), request.get("tokens", {})
        stale = [name for name, token in known.items() if self.token_of(name) != token]
        if stale:
            raise StaleValuesError(stale)
        overwritten = [name for name in tokens if self._was_changed(name)]
        before = {name: self._namespace.get(name, _MISSING) for name in tokens}
        thorough = frozenset(request.get("mutated", ()))
        try:
            self._load(request, buffers)
            self._known_to(client).update(note_definitions(request.get("definitions", ()), self._definitions))
            synced = {name: self._make_synced(name, token, thorough) for name, token in tokens.items()}
        except BaseException as error:
            for name, value in before.items():
                if value is _MISSING:
                    self._namespace.pop(name, None)
                else:
                    self._namespace[name] = value
            if isinstance(error, Exception) and not isinstance(error, (StaleValuesError, UndecodableError)):
                # Of the store, of the mapping of what is in it, or of anybody's reducer: a cell always gets a reply.
                raise UndecodableError(", ".join(tokens), type(error).__name__, str(error)) from error
            raise
        self._synced.update(synced)
        for name in known:
            self._look_closer(name, thorough)
        self._running = _Running(
            {
                name: Identity(self._namespace[name])
                for name in (*request.get("outputs", ()), *request.get("watched", ()))
                if name in self._namespace
            },
            frozenset(known) | frozenset(tokens),
        )
        return Bound(overwritten, self._separated(before, synced))

    def _separated(self, before: Mapping[str, Any], bound: Container[str]) -> list[tuple[str, str]]:
        """Returns which names are bound anew below an object that stays here and goes on with what they were before."""
        kept = [each for each in self._objects.by_id.values() if not isinstance(each, (ModuleType, *ATOMS))]
        replaced = {
            name: scan(value, self._definitions)
            for name, value in before.items()
            if kept and value is not _MISSING and not isinstance(value, (ModuleType, *ATOMS))
        }
        if not replaced:
            return []
        found = []
        for each in kept:
            other = next((name for name, value in self._namespace.items() if value is each), None)
            if other is not None and other not in bound:
                ids = scan(each, self._definitions).mutable_ids()
                found += [(name, other) for name, scanned in replaced.items() if ids & scanned.mutable_ids()]
        return found

    def _welcome(self, client: str, notebook: str) -> None:
        """Takes note of who is here; what was kept for a client that is gone is kept no longer."""
        gone = []
        if notebook and (before := self._notebooks.get(notebook, client)) != client:
            gone.append(before)  # the notebook's kernel was restarted
        if notebook:
            self._notebooks[notebook] = client
        self._known[client] = self._known.pop(client, {})
        gone += list(self._known)[: max(0, len(self._known) - _MAX_CLIENTS)]
        for each in gone:
            self._known.pop(each, None)
            self._objects.forget(each)
        self._notebooks = {key: each for key, each in self._notebooks.items() if each in self._known}

    def _load(self, request: Mapping[str, Any], buffers: Sequence[Any]) -> None:
        for name, modules in request.get("modules", {}).items():
            self._namespace[name] = _import(name, modules)
        try:
            unpacker = Unpacker(request.get("places", ()), buffers, self._fetch)
            load(request, unpacker, self._definitions, self._objects.by_id, namespace=self._namespace)
        except (MissingBlobError, UnknownReferenceError) as error:
            raise StaleValuesError from error

    def token_of(self, name: str) -> str | None:
        """Returns by which the client that was here last knows what a name is bound to, or None."""
        synced = self._synced.get(name)
        return synced.token if synced is not None and name in self._namespace else None

    def _fetch(self, digest: str) -> memoryview:
        if self._blobs is None:
            raise MissingBlobError(digest)
        return self._blobs.map(digest)

    def _known_to(self, client: str) -> dict[str, str]:
        return self._known.setdefault(client, {})

    def _make_synced(self, name: str, token: str, thorough: Container[str] = ()) -> _Synced:
        value = self._namespace[name]
        fingerprint = take_fingerprint(value, self._definitions, thorough=name in thorough)
        # An object that cannot be told from its successor at the same place is kept, unless a comparison of all of it
        # will tell. It is let go when the name is seen to be bound to something else.
        compared = isinstance(value, ATOMS) or (fingerprint is not None and fingerprint.thorough)
        return _Synced(token, Identity(value, keeps=not compared), fingerprint)

    def _look_closer(self, name: str, thorough: Container[str]) -> None:
        """Takes a fingerprint of all of what the cell is seen to change, where there was less of it."""
        synced = self._synced[name]
        if name in thorough and synced.fingerprint is not None and not synced.fingerprint.thorough:
            value = self._namespace[name]
            if not self._differs(name, value):
                synced.fingerprint = take_fingerprint(value, self._definitions, thorough=True)

    def _was_changed(self, name: str) -> bool:
        """Says whether a name is bound to something that the other side does not know."""
        if name not in self._namespace or name in self._hidden:
            return False
        return name not in self._synced or self._differs(name, self._namespace[name])

    def _differs(self, name: str, value: Any) -> bool:
        synced = self._synced[name]
        if not synced.identity.is_of(value):
            return True
        if synced.fingerprint is None:
            return False
        return self._fingerprint(name, value) != synced.fingerprint

    def _fingerprint(self, name: str, value: Any) -> Fingerprint | None:
        """Looks at a value in the way in which it was looked at before."""
        before = self._synced[name].fingerprint
        return take_fingerprint(value, self._definitions, thorough=before is not None and before.thorough)

    def look_at(self, object_id: str) -> dict[str, Any] | None:
        """Returns the attributes and the docstring of an object that stayed here, or None if it is gone."""
        if object_id not in self._objects.by_id:
            return None
        return explain(self._objects.by_id[object_id])

    # -- Out -------------------------------------------------------------------------------------------------------

    def collect(self, request: Mapping[str, Any], client: str) -> tuple[dict[str, Any], list[bytes]]:
        """Gathers what a cell bound, and what it changed in place of what came with it.

        Returns:
            Content and buffers of the message.
        """
        forced = set(request.get("force", ()))
        changed = self._changed(request)
        in_place = [name for name in changed if self._synced[name].identity.is_of(self._namespace[name])]
        bound = [name for name in request.get("outputs", ()) if self._is_new(name, request)]
        wanted: dict[str, Any] = {
            name: self._namespace[name]
            for name in dict.fromkeys([*bound, *changed, *request.get("force", ()), *request.get("by_handle", ())])
            if name in self._namespace
        }
        for object_id in request.get("fetch", ()):
            if object_id in self._objects.by_id:
                wanted[object_id] = self._objects.by_id[object_id]
                forced.add(object_id)
        stays = dict.fromkeys((name for name in request.get("by_handle", ()) if name in wanted), "as asked")
        lent: list[str] = []
        try:
            packed = self._pack(wanted, forced, stays, request, client, in_place, lent)
        except Exception as error:  # noqa: BLE001 - the store is full, most likely; but any code may run in a reducer
            for part in lent:
                self._discard(part)
            reason = f"{type(error).__name__}: {error}"
            wanted = {name: value for name, value in wanted.items() if name not in in_place or name in forced}
            packed = self._pack(wanted, set(wanted), dict.fromkeys(wanted, reason), request, client, [], lent)
        for name, synced in self._synced.items():
            if name not in self._namespace or not synced.identity.is_of(self._namespace[name]):
                synced.identity.forget()
        self._running = _Running({}, frozenset())
        return packed

    def _changed(self, request: Mapping[str, Any]) -> list[str]:
        """Returns names for which both sides had the same when the cell began, and have no longer."""
        return [
            name
            for name in dict.fromkeys([*request.get("watched", ()), *request.get("outputs", ())])
            if name in self._running.verified and name in self._namespace
            and self._differs(name, self._namespace[name])
        ]  # fmt: skip

    def _is_new(self, name: str, request: Mapping[str, Any]) -> bool:
        """Says whether the client is to get what a name is bound to now that the cell may bind and did not read.

        A name may be bound to the object that it was bound to before, as small numbers are: then it counts whether the
        cell binds it whatever happens, and whether the client has anything of that name.
        """
        if name not in self._namespace or name in self._running.verified:
            return False
        before = self._running.before.get(name)
        if before is None or not before.is_of(self._namespace[name]):
            return True
        return name in request.get("certain", ()) or name in request.get("lacks", ())

    def _pack(
        self,
        wanted: dict[str, Any],
        forced: set[str],
        stays: dict[str, str],
        request: Mapping[str, Any],
        client: str,
        in_place: list[str],
        lent: list[str],
    ) -> tuple[dict[str, Any], list[bytes]]:
        limit_bytes = int(request.get("limit_bytes", 0))
        content: dict[str, Any] = {
            "python": list(sys.version_info[:2]),
            "plain": bool(request.get("plain")),
            "in_place": in_place,
        }
        content["modules"] = modules = _modules_in({name: wanted[name] for name in wanted if name not in stays})
        refused = dict(stays)
        encoded: dict[str, Encoded] = {}
        definitions: dict[str, Definition] = {}
        for name, value in wanted.items():
            if name in modules or name in stays:
                continue
            try:
                limit = None if name in forced else limit_bytes
                taken, needed = self._encode(value, limit, name if name in in_place else None)
                if request.get("plain") and taken.carries_code():
                    raise TypeError(f"Python {platform.python_version()} compiled it, and the notebook's is another")
                encoded[name] = taken
                definitions.update(needed)
            except Exception as error:  # noqa: BLE001 - any code may run in a reducer; whatever cannot travel stays
                refused[name] = f"{type(error).__name__}: {error}"
        for name, (value, needed) in self._encode_what_shares(encoded, request, wanted, limit_bytes).items():
            wanted[name] = self._namespace[name]
            encoded[name] = value
            in_place.append(name)
            definitions.update(needed)
        packer = Packer()
        parcels = []
        adopted = {key: path for name in in_place for key, path in _adopted(name, wanted[name]).items()}
        for names in group_by_sharing(encoded):
            whole = encoded[names[0]]
            if len(names) > 1:
                values = tuple(wanted[name] for name in names)
                whole = encode(values, self._definitions, keeps_views=True, adopted=adopted)
            parcels.append({"names": names, **packer.add(whole)})
        known = self._known_to(client)
        content["definitions"] = pack_definitions(definitions, known, packer)
        content["parcels"] = parcels
        content["places"], buffers = packer.finish(lambda part: self._lend(part, lent))
        known.update({key: each.digest for key, each in definitions.items()})
        # What the client has an object of its own for is not replaced by a handle.
        left = {name: refused.pop(name) for name in in_place if name in refused and name not in forced}
        content["left"] = self._newly_left(left)
        content["handles"] = {
            name: {"id": self._objects.keep(wanted[name], client), **describe(wanted[name])} for name in refused
        }
        content["refused"] = {name: why for name, why in refused.items() if name in forced}
        content["tokens"] = self._new_tokens(
            name for name in wanted if name not in request.get("fetch", ()) and name not in left
        )
        return content, buffers

    def _newly_left(self, left: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Returns what is to be said of objects that were changed and stay here; once a change."""
        found = {}
        for name, why in left.items():
            value, synced = self._namespace[name], self._synced[name]
            fingerprint = self._fingerprint(name, value)
            if synced.left is None or fingerprint != synced.left:
                synced.left = fingerprint
                found[name] = {"why": why, **describe(value)}
        return found

    def _encode_what_shares(
        self, encoded: Mapping[str, Encoded], request: Mapping[str, Any], wanted: Mapping[str, Any], limit_bytes: int
    ) -> dict[str, tuple[Encoded, dict[str, Definition]]]:
        """Encodes what the cell read and did not change, and what comes back shares with: it has to come with it.

        An optimiser that came without the model that it was made for would train parameters that nobody else has.
        """
        if not any(each.mutable_ids() for each in encoded.values()):
            return {}
        read = {}
        for name in request.get("watched", ()):
            value = self._namespace.get(name)
            if name in wanted or name not in self._running.verified or isinstance(value, (ModuleType, *ATOMS)):
                continue
            if not self._synced[name].identity.is_of(value):
                continue
            with contextlib.suppress(Exception):  # any code may run in a reducer; what cannot travel stays
                read[name] = self._encode(value, limit_bytes, name)
        groups = group_by_sharing({**encoded, **{name: value for name, (value, _) in read.items()}})
        together = [names for names in groups if not encoded.keys().isdisjoint(names)]
        return {name: read[name] for names in together for name in names if name in read}

    def _encode(
        self, value: Any, limit_bytes: int | None, adopted_as: str | None = None
    ) -> tuple[Encoded, dict[str, Definition]]:
        if limit_bytes is not None:
            size_bytes = describe(value).get("size_bytes", 0)
            if size_bytes > limit_bytes:
                raise ValueTooLargeError(limit_bytes)
        adopted = _adopted(adopted_as, value) if adopted_as is not None else None
        encoded = encode((value,), self._definitions, total_limit_bytes=limit_bytes, with_memo=True, adopted=adopted)
        return encoded, gather_definitions(encoded.classes, self._definitions)

    def _new_tokens(self, names: Iterable[str]) -> dict[str, str]:
        tokens = {}
        for name in names:
            self._outputs += 1
            tokens[name] = f"session:{self._outputs}"
            self._synced[name] = self._make_synced(name, tokens[name])
        return tokens

    def _lend(self, part: list[Any], lent: list[str]) -> str:
        if self._blobs is None:
            raise OSError("this kernel has no store of blobs")
        lent.append(self._blobs.lend(part))
        return lent[-1]

    def _discard(self, name: str) -> None:
        if self._blobs is not None:
            self._blobs.discard(name)


def _adopted(name: str, value: Any) -> dict[int, str]:
    """Returns the names, by id, under which the client finds what it has of the value to be put together in."""
    return {id(each): path for path, each in named_parts(name, value).items()}


def _modules_in(values: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: found
        for name, value in values.items()
        if isinstance(value, ModuleType) and (found := importable_name(value, sys.modules)) is not None
    }


def _import(name: str, modules: Sequence[str]) -> ModuleType:
    """Imports modules, of which the first is what the name is bound to."""
    try:
        imported = [importlib.import_module(module) for module in modules]
    except Exception as error:  # a module runs any code when it is imported
        raise UndecodableError(name, type(error).__name__, str(error)) from error
    return imported[0]
