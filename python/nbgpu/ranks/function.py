"""`distributed`: a function that can be called on every rank of a session, as well as here."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar, overload

from IPython.core.getipython import get_ipython

from nbgpu.errors import CommandError
from nbgpu.ranks.accelerators import Wanted, parse_wanted
from nbgpu.ranks.call import Call, view_here
from nbgpu.ranks.site import Site, choose_site

T = TypeVar("T")
_UNSET: Any = object()
HANG_AFTER_VARIABLE = "NBGPU_HANG_AFTER_S"
DEFAULT_HANG_AFTER_S = 60.0


class DistributedFunction:
    """A function with `.distributed(...)`. Made by `distributed`; called directly it runs here.

    Args:
        function: What runs on each rank.
        options: As `distributed` takes them, by name.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options
        self._wanted = _wanted(options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        """Binds it as a method: the instance is its first argument, here and on the ranks."""
        if instance is None:
            return self
        return DistributedFunction(functools.partial(self._function, instance), self._options)

    def __repr__(self) -> str:
        return f"<distributed {getattr(self._function, '__qualname__', self._function)!s}>"

    def with_overrides(
        self,
        num_accelerators: int | None = _UNSET,
        accelerator_type: Any = _UNSET,
        remote: bool = _UNSET,
        timeout: float | None = _UNSET,
        *,
        gpus: int | None = _UNSET,
        gpu_type: Any = _UNSET,
        all_ranks: bool = _UNSET,
        hang_after_s: float | None = _UNSET,
    ) -> DistributedFunction:
        """Returns the same function with other options; what is not given stays. See `distributed`.

        Raises:
            SpecError: The options cannot be met together.
        """
        given = {
            "num_accelerators": _either(num_accelerators, gpus),
            "accelerator_type": _either(accelerator_type, gpu_type),
            "remote": remote,
            "timeout": timeout,
            "all_ranks": all_ranks,
            "hang_after_s": hang_after_s,
        }
        chosen = {name: value for name, value in given.items() if value is not _UNSET}
        return DistributedFunction(self._function, {**self._options, **chosen})

    def distributed(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Calls the function on every rank, and waits for the end, with the ranks' output shown here.

        An interrupt ends the ranks. GPU memory is free when this returns or raises.

        Returns:
            What each rank's function returned, in rank order.

        Raises:
            BaseException: See `Call.result`.
            Error: No session could be had, as with `nbgpu.attach`.
            NotPicklableError: An argument, or what the function reads, cannot be sent.
        """
        site, request = self._prepare(args, kwargs)
        call = Call(site, "", request["world_size"])
        return call.settle(lambda: dict(site.send("run", request)))

    def submit(self, *args: Any, **kwargs: Any) -> Call:
        """Starts the function on every rank, and returns at once.

        Its output is kept with it, and shown by `Call.result` and `Call.logs`. It goes on when this notebook's kernel
        is restarted: `nbgpu.find_call(id)` finds it.

        Raises:
            Error: No session could be had, as with `nbgpu.attach`.
            NotPicklableError: An argument, or what the function reads, cannot be sent.
        """
        site, request = self._prepare(args, kwargs)
        answer = site.send("submit", request)
        shows_all = bool(self._options.get("all_ranks"))
        call = Call(site, str(answer.get("id", "")), request["world_size"], all_ranks=shows_all)
        if answer["kind"] != "started":
            call.settle(lambda: dict(answer))
        return call

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Site, dict[str, Any]]:
        site, world_size = choose_site(self._wanted)
        timeout = self._options.get("timeout")
        return site, {
            "function": self._function,
            "args": args,
            "kwargs": kwargs,
            "world_size": world_size,
            "timeout_s": float(timeout) if timeout is not None else None,
            "hang_after_s": hang_limit_s(self._options),
            "cells": _cells_here(),
            "view": view_here(all_ranks=bool(self._options.get("all_ranks"))),
        }


def hang_limit_s(options: dict[str, Any]) -> float | None:
    """Returns after how long ranks are said to hang; None: never."""
    given = options.get("hang_after_s", os.environ.get(HANG_AFTER_VARIABLE) or DEFAULT_HANG_AFTER_S)
    try:
        seconds = float(given) if given is not None else 0.0
        if not seconds >= 0:
            raise ValueError
    except (TypeError, ValueError):
        raise CommandError(
            f"hang_after_s is a number of seconds, not {given!r}",
            f"it comes from `distributed`, or {HANG_AFTER_VARIABLE}",
        ) from None
    return seconds if 0 < seconds < float("inf") else None


def _cells_here() -> dict[str, int]:
    """Returns the numbers of this notebook's cells, by the files that their code names."""
    known = getattr(getattr(get_ipython(), "compile", None), "_filename_map", {})
    return {str(file): int(number) for file, number in known.items()}


def _either(first: Any, second: Any) -> Any:
    if first is _UNSET or second is _UNSET:
        return second if first is _UNSET else first
    if first is None or second is None or first == second:
        return first if first is not None else second
    raise CommandError(
        f"{first!r} and {second!r} are given for the same thing under two names", "give `gpus` or `num_accelerators`"
    )


def _wanted(options: dict[str, Any]) -> Wanted:
    timeout = options.get("timeout")
    if timeout is not None and not timeout > 0:
        raise CommandError(f"a timeout is a number of seconds above 0, not {timeout!r}", "leave it out for none")
    hang_limit_s(options)
    return parse_wanted(options.get("num_accelerators"), options.get("accelerator_type"))


@overload
def distributed(num_accelerators: Callable[..., Any]) -> DistributedFunction: ...


@overload
def distributed(
    num_accelerators: int | None = None,
    accelerator_type: Any = None,
    remote: bool = False,
    timeout: float | None = None,
    *,
    gpus: int | None = None,
    gpu_type: Any = None,
    all_ranks: bool = False,
    hang_after_s: float | None = _UNSET,
) -> Callable[[Callable[..., Any]], DistributedFunction]: ...


def distributed(
    num_accelerators: Any = None,
    accelerator_type: Any = None,
    remote: bool = False,
    timeout: float | None = None,
    *,
    gpus: int | None = None,
    gpu_type: Any = None,
    all_ranks: bool = False,
    hang_after_s: float | None = _UNSET,
) -> Any:
    """Decorates a function that is to run on several accelerators at once, one process a rank, as torchrun starts them.

    ::

        @distributed(gpus=8, gpu_type="H100")
        def train(epochs):
            torch.distributed.init_process_group()
            ...

        results = train.distributed(3)  # on 8 ranks; a list, in rank order
        train(3)                        # here

    The ranks are fresh processes. They have the function, its arguments, and what its code reads of this notebook and
    of the session, the notebook's environment and local modules, and the variables that `%gpu env` and `%gpu secret`
    named. With `@distributed` alone there is a rank for every accelerator of the notebook's session.

    Args:
        num_accelerators: How many ranks; None for one on each accelerator. `gpus` means the same.
        accelerator_type: Such as "H100", "h100_80gb", "GPU_8xH100", "24GB+", "CPU". `gpu_type` means the same.
        remote: For notebooks that come from elsewhere; without a meaning here, where a pool decides.
        timeout: In seconds from the ranks' start, after which they are ended; None for none.
        all_ranks: Show every line of every rank, rather than rank 0's with the others folded away.
        hang_after_s: When ranks that wait for others have got no further, and none has written anything, for so many
            seconds, it is said below the cell who waits where and who has not come. Nothing is ended. 0 or None:
            that is not looked for. By default NBGPU_HANG_AFTER_S in the notebook's environment, or 60.

    Raises:
        SpecError: The type cannot be read, or says another number.
    """
    if callable(num_accelerators):
        return DistributedFunction(num_accelerators, {})
    options = {
        "num_accelerators": _either(_given(num_accelerators), _given(gpus)),
        "accelerator_type": _either(_given(accelerator_type), _given(gpu_type)),
        "remote": remote,
        "timeout": timeout,
        "all_ranks": all_ranks,
        "hang_after_s": hang_after_s,
    }
    options = {name: value for name, value in options.items() if value is not _UNSET}
    _wanted(options)
    return lambda function: DistributedFunction(function, options)


def _given(value: Any) -> Any:
    return _UNSET if value is None else value
