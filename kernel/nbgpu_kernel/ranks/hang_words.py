"""Says in words, and in HTML, that ranks hang: who waits where, who has not come, and where that one is instead."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nbgpu_kernel.ranks.doctor import BACKWARD
from nbgpu_kernel.ranks.lines import ranks_in_words

PlaceOf = Callable[[str], str]
"""Says by which name a person knows the code of a file, such as "Cell In[3]"."""
_SPINS_PERCENT = 90


@dataclass(frozen=True)
class HangWords:
    """What is said of a hang."""

    title: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    """Ranks that are at the same place, in a sentence, and their stack, the outermost frame first."""
    advice: str
    is_over: bool

    def text(self) -> str:
        lines = [f"nbgpu: {self.title}", *(f"  {line}" for line, _ in self.groups)]
        return "\n".join([*lines, *([f"  {self.advice}"] if self.advice else [])])

    def html(self) -> str:
        colour = "--jp-success-color1" if self.is_over else "--jp-warn-color1"
        parts = [f"<div><b>{html.escape(self.title)}</b></div>"]
        for line, stack in self.groups:
            body = html.escape("\n".join(stack))
            folded = f'<pre style="margin: 2px 0 4px 16px">{body}</pre>' if stack else ""
            summary = f"<summary>{html.escape(line)}</summary>"
            parts.append(f"<details>{summary}{folded}</details>" if stack else f"<div>{html.escape(line)}</div>")
        if self.advice:
            parts.append(f'<div style="color: var(--jp-ui-font-color2)">{html.escape(self.advice)}</div>')
        style = f"border-left: 3px solid var({colour}); padding: 2px 0 2px 8px; margin: 4px 0"
        return f'<div class="nbgpu-Hang" style="{style}">{"".join(parts)}</div>'


def hang_in_words(hang: Mapping[str, Any], place_of: PlaceOf, *, has_ended: bool = False) -> HangWords:
    """Returns what is to be said.

    Args:
        hang: As `nbgpu_kernel.ranks.hang_file` describes it.
        place_of: Names files.
        has_ended: The call is over.
    """
    duration = duration_in_words(hang["for_s"])
    absent = _absent(hang)
    waiting, missing, returned = hang["waiting"], hang["missing"], hang["returned"]
    groups = _groups([*waiting, *missing], place_of)
    if returned:
        verb = "has" if len(returned) == 1 else "have"
        groups.append((f"{ranks_in_words(returned)} {verb} returned, and will not come", ()))
    if absent:
        verb = "does" if len(absent) == 1 else "do"
        groups.append((f"{ranks_in_words(absent)} {verb} not run this cell", ()))
    is_past = hang["is_over"] or has_ended
    who = _blame(hang, is_past=is_past)
    if hang["is_over"]:
        return HangWords(f"Went on after {duration} without progress: {who}", (), "", is_over=True)
    if has_ended:
        return HangWords(f"Ended after {duration} without progress: {who}", tuple(groups), "", is_over=False)
    title = f"No progress for more than {duration}: {who}"
    return HangWords(title, tuple(groups), _advice(waiting, [*missing, *absent], returned, hang["runs"]), is_over=False)


def duration_in_words(duration_s: float) -> str:
    """Returns "12 s", "1:05" (minutes) or "2:05:10" (hours)."""
    seconds = int(max(0.0, duration_s))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{seconds:02}"
    return f"{minutes}:{seconds:02}" if minutes else f"{seconds} s"


def _blame(hang: Mapping[str, Any], *, is_past: bool) -> str:
    names = sorted({each["waits_in"] for each in hang["waiting"]})
    what = _named(names[0]) if len(names) == 1 else "a collective"
    missing = [each["rank"] for each in hang["missing"]]
    missing = missing or ([] if hang["returned"] else _absent(hang))
    returned = hang["returned"]
    who = missing or returned
    if who:
        verb = "had" if is_past else "has" if len(who) == 1 else "have"
        did = f"not come to {what}" if missing else f"returned without {what}"
        return f"{ranks_in_words(who)} of {hang['world_size']} {verb} {did}"
    verb = "were" if is_past else "are"
    if len(names) > 1:
        return f"the {hang['world_size']} ranks {verb} in different collectives, {' and '.join(map(_named, names))}"
    return f"all {hang['world_size']} ranks {verb} in {what}"


def _absent(hang: Mapping[str, Any]) -> list[int]:
    """Returns the ranks that take no part: a cell may run on some alone."""
    present = {each["rank"] for each in (*hang["waiting"], *hang["missing"])} | set(hang["returned"])
    return [rank for rank in range(hang["world_size"]) if rank not in present]


def _advice(waiting: list[dict[str, Any]], missing: list[Any], returned: list[int], runs: str) -> str:
    parts = []
    if len({each["waits_in"] for each in waiting}) > 1 and not missing:
        parts.append("every rank has to call the same collectives in the same order")
    elif not missing and not returned:
        parts.append("all have come: do they pass tensors of the same size and type, and does the network work?")
    if any(_spins(each) for each in waiting):
        parts.append("a GPU that waits in NCCL is at 100 %, and computes nothing")
    parts.append(f"nothing is ended because of this; an interrupt ends the {runs}")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _groups(ranks: Iterable[Mapping[str, Any]], place_of: PlaceOf) -> list[tuple[str, tuple[str, ...]]]:
    """Returns sentences and stacks, one for all ranks that they are the same for."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for each in ranks:
        stack = tuple(_frame(frame, place_of) for frame in reversed(each["stack"]))
        own = each["frame"]
        where = _where(own, place_of) if own else ""
        found.setdefault((each["waits_in"], where, each["behind"], stack), []).append(each)
    return [(_sentence(key, members), key[3]) for key, members in found.items()]


def _where(frame: Mapping[str, Any], place_of: PlaceOf) -> str:
    line = f"line {frame['line']} of {place_of(frame['file'])}"
    return f"at {line}" if frame["function"] == "<module>" else f"in {frame['function']}, {line}"


def _sentence(key: tuple[Any, ...], members: list[Mapping[str, Any]]) -> str:
    waits_in, where, behind, stack = key
    one = len(members) == 1
    ranks = ranks_in_words([each["rank"] for each in members])
    there = f", {where}" if where else ""
    if waits_in == BACKWARD:
        text = f"{ranks} {'waits' if one else 'wait'} in the backward pass{there}"
    elif waits_in:
        text = f"{ranks} {'waits' if one else 'wait'} in {waits_in}{there}"
    elif where:
        text = f"{ranks} {'is' if one else 'are'} {where}"
    elif stack:
        text = f"{ranks} {'is' if one else 'are'} elsewhere"
    else:
        text = f"{ranks} {'does' if one else 'do'} not show where {'it is' if one else 'they are'}"
    if waits_in:
        text += f", for {duration_in_words(min(each['for_s'] for each in members))}"
    elif (still_s := min(each["for_s"] for each in members)) >= 1 and stack:
        text += f", at that line for {duration_in_words(still_s)}"
    if behind:
        text += f", {behind} {'collective' if behind == 1 else 'collectives'} behind"
    load = _loads(members)
    return f"{text}; {load}" if load else text


def _loads(members: list[Mapping[str, Any]]) -> str:
    known = [each["gpu"]["utilisation_percent"] for each in members if each["gpu"]]
    known = [each for each in known if each is not None]
    if not known:
        return ""
    least, most = min(known), max(known)
    span = f"{least:.0f} %" if least == most else f"{least:.0f} to {most:.0f} %"
    return f"{'GPU' if len(members) == 1 else 'GPUs'} at {span}"


def _spins(rank: Mapping[str, Any]) -> bool:
    load = rank["gpu"]["utilisation_percent"] if rank["gpu"] else None
    return load is not None and load >= _SPINS_PERCENT


def _named(waits_in: str) -> str:
    return "the backward pass" if waits_in == BACKWARD else waits_in


def _frame(frame: Mapping[str, Any], place_of: PlaceOf) -> str:
    return f"{place_of(frame['file'])}, line {frame['line']}, in {frame['function']}"
