"""Completes `%gpu` commands, specs, and the names that the session knows in a `%%gpu` cell; inspects those too."""

from __future__ import annotations

import re
import types
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, context_matcher

from nbgpu import errors
from nbgpu.client.background import background
from nbgpu.kernel_questions import COMPLETION_BUDGET_S, FIRST_COMPLETION_BUDGET_S, INSPECTION_BUDGET_S, ask
from nbgpu.magics import GpuMagics
from nbgpu.notebook import this_notebook
from nbgpu.ranks.spmd import OPTIONS as SPMD_OPTIONS
from nbgpu.session_client import SessionClient
from nbgpu.spec import complete_spec
from nbgpu.values.handle import Handle
from nbgpu_protocol.v1 import pool_pb2

_ATTRIBUTE = re.compile(r"(?<![\w.)\]])([^\W\d]\w*)\.(\w*)$")
"""The name of a variable, and the beginning of one of its attributes."""
_TAKES_SPEC = ("attach", "on")
_TAKES_ID = ("close", "interrupt", "restart", "logs", "stacks", "detach")


class Completion:
    """What the notebook's completer and inspector learn of sessions.

    Nothing here starts an agent or opens a session: typing has no such effect.
    """

    def __init__(self, magics: GpuMagics) -> None:
        self._magics = magics
        self._restore_inspect: Any = None
        self._answered: set[tuple[str, int]] = set()
        """Kernels, by session and generation, that were asked for completions before."""
        # IPython writes attributes onto the matcher, which a bound method does not take.
        self._matcher = context_matcher(identifier="nbgpu")(lambda context: self._match(context))

    def install(self, shell: Any) -> None:
        """Adds the matcher, and routes inspections within `%%gpu` cells."""
        shell.Completer.custom_matchers.append(self._matcher)
        kernel = getattr(shell, "kernel", None)
        if kernel is not None:
            original = kernel.do_inspect

            def do_inspect(_: Any, code: str, cursor_pos: int, *args: Any, **kwargs: Any) -> Any:
                found = self.inspect(code, cursor_pos, *args[:1])
                return original(code, cursor_pos, *args, **kwargs) if found is None else found

            kernel.do_inspect = types.MethodType(do_inspect, kernel)
            self._restore_inspect = kernel

    def uninstall(self, shell: Any) -> None:
        """Takes both away again."""
        if self._matcher in shell.Completer.custom_matchers:
            shell.Completer.custom_matchers.remove(self._matcher)
        if self._restore_inspect is not None:
            self._restore_inspect.__dict__.pop("do_inspect", None)
            self._restore_inspect = None

    def inspect(self, code: str, cursor_pos: int, detail_level: int = 0) -> dict[str, Any] | None:
        """Returns the session's inspect_reply for a position in a `%%gpu` cell, or None if it is none of its."""
        found = self._in_cell(code, cursor_pos)
        if found is None:
            return None
        client, body, position = found
        question = {"code": body, "cursor_pos": position, "detail_level": detail_level}
        reply = ask(client, "inspect_request", question, INSPECTION_BUDGET_S)
        return reply if reply and reply.get("found") else None

    def _match(self, context: CompletionContext) -> Any:
        before = context.text_until_cursor.lstrip()
        if before.startswith("%gpu ") or (before.startswith("%%gpu ") and context.cursor_line == 0):
            found = [SimpleCompletion(text, type="magic") for text in self._on_magic_line(before)]
            return {"completions": found, "suppress": True}  # such as `range`, which Python knows for `--ran`
        return {"completions": self._names(context) or self._attributes_of_handle(context)}

    def _on_magic_line(self, before: str) -> list[str]:
        """Returns what may stand where the cursor is, as replacements of the word that it ends."""
        is_cell = before.startswith("%%")
        words_before = before.split(" ")[1:]
        word = words_before[-1]
        if is_cell and word.startswith("-"):
            return [option for option in SPMD_OPTIONS if option.startswith(word)]
        if is_cell:
            return complete_spec(word, self._offers())
        if len(words_before) == 1:
            return [name for name in self._magics.commands if name.startswith(word)]
        if words_before[0] in _TAKES_SPEC:
            return complete_spec(word, self._offers())
        if words_before[0] in _TAKES_ID:
            return [info.id for info in self._sessions() if info.id.startswith(word)]
        return []

    def _names(self, context: CompletionContext) -> list[SimpleCompletion]:
        lines = context.full_text.split("\n")
        offset = sum(len(line) + 1 for line in lines[: context.cursor_line]) + context.cursor_position
        found = self._in_cell(context.full_text, offset)
        if found is None:
            return []
        client, body, position = found
        kernel = (client.id, client.info.kernel_generation)
        budget_s = COMPLETION_BUDGET_S if kernel in self._answered else FIRST_COMPLETION_BUDGET_S
        self._answered.add(kernel)
        reply = ask(client, "complete_request", {"code": body, "cursor_pos": position}, budget_s)
        if reply is None:
            return []
        token_start = position - len(context.token)
        # IPython replaces the whole token: what lies before the session's own start belongs to every completion.
        lead = body[token_start : max(token_start, reply["cursor_start"])]
        cut = max(0, token_start - reply["cursor_start"])
        kinds = {
            each.get("text"): each.get("type")
            for each in reply.get("metadata", {}).get("_jupyter_types_experimental", [])
        }
        return [SimpleCompletion(lead + text[cut:], type=kinds.get(text)) for text in reply["matches"]]

    def _attributes_of_handle(self, context: CompletionContext) -> list[SimpleCompletion]:
        """Completes `name.` in a plain cell where the name is a handle, by the attributes of its object."""
        match = _ATTRIBUTE.search(context.text_until_cursor)
        if match is None or not context.token.endswith(match[0]):
            return []
        value = self._magics.shell.user_ns.get(match[1])
        if not isinstance(value, Handle):
            return []
        begun = match[2]
        names = [name for name in value.remote_attributes() if name.startswith(begun)]
        lead = context.token[: len(context.token) - len(begun)]
        return [SimpleCompletion(lead + name) for name in names if begun.startswith("_") or not name.startswith("_")]

    def _in_cell(self, code: str, offset: int) -> tuple[SessionClient, str, int] | None:
        """Returns the session, its code and the position there, if the offset is inside of what runs in a session."""
        client = this_notebook().chosen
        if client is None or client.end is not None:
            return None
        first, newline, body = code.partition("\n")
        if first.lstrip().startswith("%%gpu"):
            position = offset - len(first) - len(newline)
            return (client, body, position) if newline and position >= 0 else None
        return (client, code, offset) if self._magics.is_sticky else None

    def _offers(self) -> list[pool_pb2.Offer]:
        offers: list[pool_pb2.Offer] = self._quickly(_offers())
        return offers

    def _sessions(self) -> list[pool_pb2.SessionInfo]:
        sessions: list[pool_pb2.SessionInfo] = self._quickly(_sessions())
        return sessions

    @staticmethod
    def _quickly(question: Any) -> Any:
        future = background().submit(question)
        try:
            return future.result(timeout=COMPLETION_BUDGET_S)
        except (errors.Error, TimeoutError):
            future.cancel()
            return []


async def _offers() -> list[pool_pb2.Offer]:
    return await (await this_notebook().pool(start=False)).list_offers()


async def _sessions() -> list[pool_pb2.SessionInfo]:
    return await (await this_notebook().pool(start=False)).list_sessions()
