"""Tells how a call failed: the first rank that did on top, with its traceback, the others in a line or two below."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from IPython.core.getipython import get_ipython

from nbgpu.ranks.errors import CallTimeoutError, LaunchError, RankFailedError
from nbgpu.remote_exceptions import exception_to_raise
from nbgpu_kernel.ranks.lines import ranks_in_words

_RED, _GREEN, _CYAN, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[0m"
_LOST_CONNECTION = re.compile(
    r"Connection (closed|reset|refused)|Broken pipe|recvBytes|sendBytes|socket (was |is )?closed|"
    r"remote process exited|Application timeout caused pair closure|failed to recv|connection was likely closed",
    re.IGNORECASE,
)
"""What torch, gloo and NCCL say where another rank is gone: a consequence, never the cause."""
_MAX_WORDS = 120


@dataclass(frozen=True)
class Places:
    """Where code is, as the person knows it.

    Args:
        known: For files of cells that ran in the session.
    """

    known: Mapping[str, str]

    def name(self, file: str) -> str:
        """Returns "Cell In[3]", or "File …"."""
        compiler = getattr(get_ipython(), "compile", None)
        found = getattr(compiler, "format_code_name", lambda _: None)(file)
        if found is not None:
            return " ".join(found)
        return self.known.get(file) or f"File {file}"

    def frame(self, frame: Mapping[str, Any]) -> str:
        return f"{frame['function']}, line {frame['line']} of {self.name(frame['file'])}"


def failure_of(
    answer: Mapping[str, Any],
    hostname: str,
    fetch_error: Callable[[int], BaseException | None],
    *,
    notes: Sequence[str] = (),
) -> BaseException:
    """Returns the one exception to be raised for a call that did not return, or a cell that failed on its ranks.

    Args:
        answer: The outcome, as the session's kernel tells it.
        hostname: Of the node.
        fetch_error: Brings the exception of a rank, or None.
        notes: What else there is to be said of a failure.
    """
    kind = answer["kind"]
    places = Places(answer.get("places", {}))
    if kind == "interrupted":
        text = "the call was interrupted, and its ranks are ended"
        return exception_to_raise(KeyboardInterrupt(text), "KeyboardInterrupt", text, [f"KeyboardInterrupt: {text}"])
    if kind == "not_launched":
        return not_launched(answer)
    if kind == "timed_out":
        return _timed_out(answer, hostname, places)
    return _failed(answer, hostname, places, fetch_error, notes)


def not_launched(answer: Mapping[str, Any]) -> BaseException:
    """Returns what is raised where the ranks could not be started, or their launcher is gone."""
    lines = [line.rstrip("\n") for line in answer["lines"]]
    if answer["ename"] == "ModuleNotFoundError" and "torch" in answer["evalue"]:
        return LaunchError(
            "the session has no torch, which starts the ranks and connects them",
            "install torch where this notebook runs; the session gets it with the next call",
        )
    what = f"{answer['ename']}: {answer['evalue']}" if answer["ename"] else "their launcher ended"
    if answer.get("signal"):
        what = f"their launcher was killed by signal {answer['signal']}, as the system does when memory runs out"
    return LaunchError(f"the ranks could not be started or watched: {what}", "\n".join(lines[-15:]))


def _timed_out(answer: Mapping[str, Any], hostname: str, places: Places) -> BaseException:
    size = answer["world_size"]
    error = CallTimeoutError(answer["timeout_s"], size)
    groups: dict[tuple[str, ...], list[int]] = collections.defaultdict(list)
    for each in answer["others"]:
        groups[_stack_lines(each, places)].append(each["rank"])
    stacks = [
        "\n".join([f"{_GREEN}{ranks_in_words(ranks)}{_PLAIN} of {size} on {hostname}:", *lines])
        for lines, ranks in groups.items()
    ]
    summary = "\n".join(others_in_words(answer["others"], places, "when the time was over"))
    shown = [*stacks, summary, f"{_RED}{type(error).__name__}{_PLAIN}: {error}"]
    return with_notes(exception_to_raise(error, type(error).__name__, str(error), shown), shown[:-1])


def _stack_lines(other: Mapping[str, Any], places: Places) -> tuple[str, ...]:
    """Returns a stack, outermost frame first, without what is below the function."""
    if other["returned"]:
        return ("    has returned",)
    return tuple(f"    {places.frame(frame)}" for frame in reversed(other["stack"])) or ("    its stack is not known",)


def _failed(
    answer: Mapping[str, Any],
    hostname: str,
    places: Places,
    fetch_error: Callable[[int], BaseException | None],
    notes: Sequence[str],
) -> BaseException:
    size = answer["world_size"]
    first, *rest = sorted(answer["failures"], key=lambda each: (_is_consequence(each), each["time_s"]))
    rank = first["rank"]
    name = f"rank {rank} of {size} on {hostname}"
    others = others_in_words(answer["others"], places, "when they were stopped")
    below = [*_rest_in_words(rest), *others, *notes]
    hint = f"hint: `%gpu logs --rank {rank}` shows all that rank {rank} wrote"
    if first["kind"] == "raised" and first.get("chain"):
        link = first["chain"][0]
        summary = "\n".join(["", f"{_GREEN}{name}{_PLAIN} raised {link['ename']}", *below, "", hint])
        shown = [*(traceback_of(each, name, places) for each in reversed(first["chain"])), summary]
        error = exception_to_raise(fetch_error(rank), link["ename"], link["evalue"], shown)
        return with_notes(error, [summary.strip()])
    ended = RankFailedError(rank, size, first.get("exit_code"), first.get("signal"), answer.get("killed_for_memory"))
    where = _where_it_ended(first, places)
    title = f"{_RED}{type(ended).__name__}{_PLAIN}: {ended.message().replace(f'rank {rank} of {size}', name, 1)}"
    shown = [*where, "\n".join([title, *below, "", hint])]
    return with_notes(exception_to_raise(ended, type(ended).__name__, str(ended), shown), ["\n".join([*where, *below])])


def with_notes(error: BaseException, notes: Iterable[str]) -> BaseException:
    """Has plain Python, which knows nothing of frames from elsewhere, print what IPython shows."""
    add_note = getattr(error, "add_note", None)
    if add_note is not None and get_ipython() is None:
        for note in notes:
            add_note(re.sub(r"\x1b\[\d*m", "", note))
    return error


def _where_it_ended(failure: Mapping[str, Any], places: Places) -> list[str]:
    """Returns the lines of the stack that a crash, or an exit in the function, left."""
    frames = failure.get("stack") or []
    if frames:
        return ["\n".join(f"    {places.frame(frame)}" for frame in reversed(frames))]
    chain = failure.get("chain")
    return [_frames(chain[0]["frames"], places)] if chain and chain[0]["frames"] else []


def _is_consequence(failure: Mapping[str, Any]) -> bool:
    """Says whether a rank failed because another was gone, whichever was noticed first."""
    return failure["kind"] == "raised" and any(
        _LOST_CONNECTION.search(link["evalue"]) for link in failure.get("chain", [])
    )


def traceback_of(link: Mapping[str, Any], name: str, places: Places) -> str:
    """Returns one exception of a chain, as IPython shows it."""
    title = "Traceback (most recent call last)"
    head = f"{_RED}{link['ename']}{_PLAIN}{title:>{max(40, len(title) + 1)}}, {name}"
    tail = f"{_RED}{link['ename']}{_PLAIN}: {link['evalue']}"
    after = {
        "cause": "\n\nThe above exception was the direct cause of the following exception:\n",
        "context": "\n\nDuring handling of the above exception, another exception occurred:\n",
    }.get(link["relation"], "")
    return "\n".join([head, _frames(link["frames"], places), *link["lines"], tail, *link["notes"]]) + after


def _frames(frames: Iterable[Mapping[str, Any]], places: Places) -> str:
    return "\n\n".join(_frame(frame, places) for frame in frames)


def _frame(frame: Mapping[str, Any], places: Places) -> str:
    lines = [
        f"{_GREEN}{places.name(frame['file'])}{_PLAIN}, line {frame['line']}, in {_CYAN}{frame['function']}{_PLAIN}"
    ]
    source = [(number, text) for number, text in frame["source"] if text or number == frame["line"]]
    for number, text in source:
        mark = f"{'-' * (5 - len(str(number)))}> " if number == frame["line"] else ""
        lines.append(f"{mark + str(number):>7} {text}")
    return "\n".join(lines)


def _rest_in_words(failures: Iterable[Mapping[str, Any]]) -> list[str]:
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for each in failures:
        groups[_failure_in_words(each)].append(each["rank"])
    return [f"{ranks_in_words(ranks)} {what}" for what, ranks in groups.items()]


def _failure_in_words(failure: Mapping[str, Any]) -> str:
    if failure["kind"] != "raised" or not failure.get("chain"):
        text = RankFailedError(0, 0, failure.get("exit_code"), failure.get("signal"), None).message()
        return text.removeprefix("rank 0 of 0 ")
    link = failure["chain"][0]
    if _is_consequence(failure):
        return f"lost the connection to it ({link['ename']})"
    words = link["evalue"].strip().partition("\n")[0]
    words = words if len(words) <= _MAX_WORDS else f"{words[: _MAX_WORDS - 1]}…"
    return f"raised {link['ename']} after it" + (f": {words}" if words else "")


def others_in_words(others: Iterable[Mapping[str, Any]], places: Places, when: str) -> list[str]:
    """Says where ranks were, a line for those that were at the same place."""
    groups: dict[str, list[int]] = collections.defaultdict(list)
    for each in others:
        groups[_whereabouts(each, places, when)].append(each["rank"])
    return [f"{ranks_in_words(ranks)} {_numbered(what, len(ranks))}" for what, ranks in groups.items()]


def _whereabouts(other: Mapping[str, Any], places: Places, when: str) -> str:
    frame = f", in {places.frame(other['frame'])}" if other["frame"] else ""
    if other["returned"]:
        return "had returned"
    if other["collective"] == "backward":
        return f"{{were}} in the backward pass {when}{frame}"
    if other["collective"]:
        return f"waited in {other['collective']} {when}{frame}"
    return f"{{were}} running {when}{frame}"


def _numbered(text: str, count: int) -> str:
    text = text.replace("{were}", "was" if count == 1 else "were")
    return text.replace("they were stopped", "it was stopped") if count == 1 else text
