"""Says where a session is: the stacks of its kernel and of its ranks, as `%gpu stacks` and the others show them."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nbgpu import words
from nbgpu_kernel.ranks.lines import ranks_in_words
from nbgpu_kernel.ranks.stacks import Frame, collective, is_installed, main_thread, threads, users_frame
from nbgpu_protocol.v1 import pool_pb2, session_pb2

NameOf = Callable[[str], "str | None"]
"""Says by which name a person knows the code of a file, such as "Cell In[3]"; None: by the file's own."""

_CELL_BEGINS = re.compile(r"[/\\]IPython[/\\]core[/\\]interactiveshell\.py$")
_OWN = re.compile(r"[/\\]nbgpu_kernel[/\\]")
_CALLS = re.compile(r"[/\\]nbgpu_kernel[/\\]ranks[/\\]calls\.py$")
_CELLS_OF_RANKS = re.compile(r"[/\\]nbgpu_kernel[/\\]ranks[/\\]spmd\.py$")
_RESIDENT = re.compile(r"[/\\]nbgpu_kernel[/\\]ranks[/\\]resident\.py$")
_PLUMBING = re.compile(
    r"[/\\]lib(64)?[/\\]python3(\.\d+)?[/\\](?!site-packages|dist-packages)|^<frozen|[/\\]nbgpu_kernel[/\\]"
    r"|[/\\](site|dist)-packages[/\\](ipykernel|IPython|zmq|tornado|jupyter_client|traitlets|tqdm)[/\\]"
)
"""Threads that have no frame elsewhere wait for work, or for messages of the front end."""
_PACKAGES = re.compile(r"^.*[/\\](site|dist)-packages[/\\]")


@dataclass(frozen=True)
class Whereabouts:
    """Where one process is.

    Attributes:
        rank: None for the session's kernel.
        state: What it does, with "{is}" and "{s}" where one and several differ.
        frames: Its main thread's, the outermost first.
        others: Those of other threads of the person's.
        left_out: How many threads are not among them.
    """

    rank: int | None
    world_size: int
    state: str
    frames: tuple[Frame, ...]
    others: tuple[tuple[Frame, ...], ...]
    left_out: int


def stacks_in_words(
    response: session_pb2.StacksResponse,
    info: pool_pb2.SessionInfo | None,
    name_of: NameOf = lambda file: None,
    *,
    show_all: bool = False,
    all_hint: str = "; `--all` shows them",
) -> str:
    """Returns the report.

    Args:
        response: What the agent answered.
        info: The session; None: what it is and does is not said.
        name_of: Knows cells of the notebook that did not run in the session.
        show_all: Show threads that only wait for work, too.
        all_hint: Ends the line that says that there are such threads.
    """
    names = _Names(response.cells, name_of)
    found = [read_whereabouts(each, show_all=show_all) for each in response.processes]
    parts = []
    if info is not None:
        held = words.accelerators_in_words(info.accelerators)
        parts.append(f"{held} on {info.node.hostname}, session {info.id}: {words.state_in_words(info)}")
        if response.samples:
            parts[0] += "\n" + words.samples_table(info.accelerators, response.samples)
    parts += [_kernel_in_words(each, names, info) for each in found if each.rank is None]
    parts += _ranks_in_words([each for each in found if each.rank is not None], names)
    left_out = sum(each.left_out for each in found)
    if left_out:
        what = "1 thread that waits" if left_out == 1 else f"{left_out} threads that wait"
        parts.append(f"left out: {what} for work or for messages{all_hint}")
    return "\n\n".join(parts)


def cell_name(file: str) -> str | None:
    """Returns "Cell In[3]" for the file by which this notebook knows one of its cells; None for other files."""
    from IPython.core.getipython import get_ipython  # the terminal and the Jupyter server do without

    compiler = getattr(get_ipython(), "compile", None)
    found = getattr(compiler, "format_code_name", lambda _: None)(file)
    return " ".join(found) if found is not None else None


def read_whereabouts(process: session_pb2.ProcessStacks, *, show_all: bool = False) -> Whereabouts:
    """Reads what one process answered.

    Args:
        process: The answer.
        show_all: Have all threads among the others.
    """
    rank = process.rank if process.HasField("rank") else None
    if not process.dump:
        state = "did not show where {they} {are}: in the middle of {their} start or end, or the signal is taken"
        return Whereabouts(rank, process.world_size, state, (), (), 0)
    everything = threads(process.dump)
    main = everything[-1] if everything else []
    if rank is None:
        frames, state = _of_kernel(main)
    else:
        frames, state = _of_rank(main, process.dump)
    rest = everything[:-1]
    shown = rest if show_all else [each for each in rest if not all(_PLUMBING.search(frame.file) for frame in each)]
    return Whereabouts(
        rank,
        process.world_size,
        state,
        tuple(reversed(frames)),
        tuple(tuple(reversed(each)) for each in shown if each),
        len(rest) - len(shown),
    )


def innermost_in_words(response: session_pb2.StacksResponse, name_of: NameOf = lambda file: None) -> str:
    """Returns at which line of the person's code the kernel was, as "in train, line 7 of Cell In[5]"; else empty."""
    names = _Names(response.cells, name_of)
    for process in response.processes:
        found = read_whereabouts(process)
        own = users_frame(list(reversed(found.frames)))
        if found.rank is None and own is not None:
            return f"in {own.function}, line {own.line} of {names(own.file)}"
    return ""


def frame_in_words(frame: Frame, names: Callable[[str], str]) -> str:
    """Returns a line of a stack, as a traceback has it."""
    return f"    {names(frame.file)}, line {frame.line}, in {frame.function}"


class _Names:
    """How a person knows the code of files."""

    def __init__(self, cells: Mapping[str, int], name_of: NameOf) -> None:
        self._cells = cells
        self._name_of = name_of

    def __call__(self, file: str) -> str:
        if file in self._cells:
            return f"Cell In[{self._cells[file]}]"
        return self._name_of(file) or f"File {_PACKAGES.sub('', file)}"


def _of_kernel(main: Sequence[Frame]) -> tuple[list[Frame], str]:
    """Returns the frames of the cell that runs, and what the kernel does."""
    begins = next((at for at, frame in enumerate(main) if _CELL_BEGINS.search(frame.file)), None)
    if begins is None:
        is_ahead = any(_CELLS_OF_RANKS.search(frame.file) for frame in main)
        return [], "waits for the other ranks of its cell" if is_ahead else "runs no code of yours now"
    frames = list(main[:begins])
    if any(_CALLS.search(frame.file) for frame in frames):
        own = _without_own(frames)
        # A call of the notebook's comes as one line of ours.
        is_ours = len(own) == 1 and own[0].function == "<module>"
        return [] if is_ours else own, "waits for the ranks of its call"
    name = collective(frames)
    if name and name != "backward":
        return _without_own(frames), f"waits in {name}"
    return _without_own(frames), "runs a cell"


def _of_rank(main: Sequence[Frame], dump: str) -> tuple[list[Frame], str]:
    """Returns the frames of what a rank runs, and what it does."""
    if any(_RESIDENT.search(frame.file) for frame in main):  # it stays, and runs cells
        begins = next((at for at, frame in enumerate(main) if _CELL_BEGINS.search(frame.file)), None)
        if begins is None:
            return [], "run{s} no code of yours now"
        frames = _without_own(main[:begins])
    else:
        frames = main_thread(dump) or _without_own(main)
    return frames, _state_of_rank(frames)


def _without_own(frames: Sequence[Frame]) -> list[Frame]:
    return [frame for frame in frames if not _OWN.search(frame.file)]


def _state_of_rank(frames: Sequence[Frame]) -> str:
    name = collective(list(frames))
    if name == "backward":
        return "{is} in the backward pass"
    if name:
        return f"wait{{s}} in {name}"
    own = users_frame(list(frames))
    if own is not None:
        return f"{{is}} in {own.function}"
    return "{is} about to begin, or to end"


def _kernel_in_words(kernel: Whereabouts, names: _Names, info: pool_pb2.SessionInfo | None) -> str:
    state = _numbered(kernel.state, 1)
    is_executing = info is not None and info.kernel_state == pool_pb2.KERNEL_EXECUTING
    if not kernel.frames and is_executing and "no code" in kernel.state:
        state = "awaits something, or is between two steps of its cell"
    return "\n".join([f"the kernel {state}", *_stack_lines(kernel, names)])


def _ranks_in_words(found: Iterable[Whereabouts], names: _Names) -> list[str]:
    groups: dict[tuple[str, tuple[str, ...], int], list[int]] = collections.defaultdict(list)
    for each in found:
        assert each.rank is not None
        groups[(each.state, tuple(_stack_lines(each, names)), each.world_size)].append(each.rank)
    return [
        "\n".join([f"{ranks_in_words(ranks)} of {size} {_numbered(state, len(ranks))}", *lines])
        for (state, lines, size), ranks in groups.items()
    ]


def _stack_lines(found: Whereabouts, names: _Names) -> list[str]:
    lines = [frame_in_words(frame, names) for frame in found.frames]
    for thread in found.others:
        own = next((frame for frame in reversed(thread) if not is_installed(frame.file)), thread[-1])
        lines.append(f"  another thread, in {own.function}")
        lines += [frame_in_words(frame, names) for frame in thread]
    return lines


def _numbered(text: str, count: int) -> str:
    one = count == 1
    return text.format(
        **{"is": "is" if one else "are", "s": "s" if one else "", "they": "it" if one else "they"},
        are="is" if one else "are",
        their="its" if one else "their",
    )
