"""Which of the names that code mentions the notebook defines."""

from __future__ import annotations

import builtins
import re
from typing import Any

# In, Out, _, __, ___, _3, _i, _ii, _i3, _oh, _dh, …: IPython keeps these itself, here and over there.
_MANAGED = re.compile(r"(In|Out|exit|quit|get_ipython|_+|_\d+|_i+|_i\d+|_[oid]h|_exit_code|_sh|__\w*__)")


class NotebookNames:
    """What counts as defined in the notebook.

    Args:
        namespace: The cells' globals.
        hidden: Names in it that are the shell's own, with what they were bound to then.
    """

    def __init__(self, namespace: dict[str, Any], hidden: dict[str, Any]) -> None:
        self.namespace = namespace
        self._hidden = hidden

    def defines(self, name: str) -> bool:
        """Says whether a name is bound here to something that a person or their code bound it to."""
        if name not in self.namespace:
            return False
        value = self.namespace[name]
        if name in self._hidden and self._hidden[name] is value:
            return False
        if getattr(builtins, name, _NOTHING) is value:
            return False
        return not _MANAGED.fullmatch(name)

    def may_bind(self, name: str) -> bool:
        """Says whether what a cell binds a name to comes back: not what is private, or IPython's."""
        return not name.startswith("_") and not _MANAGED.fullmatch(name)


_NOTHING = object()
