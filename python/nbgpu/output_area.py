"""What stands in the end of an execution's output where it is shown below another cell, or in a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nbgpu.replay import Output, joined, text_output

WIDGET_TYPE = "application/vnd.jupyter.widget-view+json"
MAX_LINES = 2000
MAX_CHARACTERS = 200_000
MAX_DISPLAYS = 50


@dataclass(frozen=True)
class Excerpt:
    """What is shown of much output."""

    outputs: Sequence[Output]
    left_out_lines: int = 0
    """Of streams, before the first that is shown."""
    left_out_displays: int = 0


class OutputArea:
    """Takes outputs in their order, each as `elsewhere` returns it; what was cleared is gone."""

    def __init__(self) -> None:
        self._outputs: list[Output] = []
        self._clears_next = False

    def add(self, output: Output) -> None:
        if output.kind == "clear_output":
            self._clears_next = bool(output.content.get("wait"))
            if not self._clears_next:
                self._outputs.clear()
            return
        if self._clears_next:
            self._outputs.clear()
            self._clears_next = False
        if output.kind != "update_display_data":
            self._outputs.append(output)
            return
        known = [index for index, each in enumerate(self._outputs) if each.display_id == output.display_id]
        for index in known:
            self._outputs[index] = Output("display_data", output.content, output.metadata, output.buffers)
        if not known:  # what an earlier cell displayed
            self._outputs.append(output)

    def outputs(self) -> list[Output]:
        """Returns all of it, neighbouring pieces of a stream as one."""
        return joined(self._outputs)

    def excerpt(self) -> Excerpt:
        """Returns the end of it, if there is more than a person reads."""
        lines_left, characters_left, displays_left = MAX_LINES, MAX_CHARACTERS, MAX_DISPLAYS
        left_out_lines = left_out_displays = 0
        kept: list[Output] = []
        for each in reversed(self.outputs()):
            if each.kind != "stream":
                if displays_left:
                    kept.append(each)
                    displays_left -= 1
                else:
                    left_out_displays += 1
                continue
            text = each.content["text"]
            shown = _end_of(text, lines_left, characters_left) if not left_out_lines else ""
            left_out_lines += text.count("\n", 0, len(text) - len(shown)) or (len(shown) < len(text))
            lines_left -= shown.count("\n")
            characters_left -= len(shown)
            if shown:
                kept.append(Output(each.kind, {**each.content, "text": shown}))
        return Excerpt(kept[::-1], left_out_lines, left_out_displays)


def elsewhere(output: Output) -> Output:
    """Returns an output as it is shown where the cell that made it is not.

    An error is text, as the cell below which it stands did not fail; a result is a display, as it is none of that
    cell's; a widget is what it says in text, as its model lives in a front end that has not seen it made.
    """
    kind, content = output.kind, output.content
    if kind == "error":
        return text_output("stderr", "".join(f"{piece}\n" for piece in content["traceback"]))
    if kind == "execute_result":
        kind = "display_data"
        content = {"data": content["data"], "metadata": content.get("metadata", {}), "transient": {}}
    data = content.get("data", {})
    if WIDGET_TYPE in data and len(data) > 1:
        content = {**content, "data": {name: value for name, value in data.items() if name != WIDGET_TYPE}}
    return Output(kind, content, output.metadata, output.buffers)


def _end_of(text: str, lines: int, characters: int) -> str:
    """Returns as much of the end of a text as that, in whole lines if there are any."""
    if len(text) <= characters and text.count("\n") <= lines:
        return text
    at = len(text)
    for _ in range(lines):
        begin = text.rfind("\n", 0, max(at - 1, 0)) + 1
        if len(text) - begin > characters:
            break
        at = begin
        if not begin:
            break
    if at == len(text) and characters:  # one line without an end, such as a bar that is redrawn
        at = max(text.rfind("\r", 0, len(text) - 1) + 1, len(text) - characters)
    return text[at:]
