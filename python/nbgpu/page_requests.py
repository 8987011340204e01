"""What the page has this notebook's kernel do: evaluated as an expression, so that it binds no name of the person's."""

from __future__ import annotations

from nbgpu.client.background import background, run_telling
from nbgpu.notebook import this_notebook


def synchronise(session_id: str) -> str:
    """Gives a session what changed here since its last cell, as the next cell would. Blocks; an interrupt withdraws it.

    Raises:
        NoSuchSessionError: It is closed.
        EnvironmentImpossibleError: The node cannot have what was installed here.
        BuildFailedError: It could not be built there.
    """
    client = background().run(this_notebook().find(session_id))
    run_telling(lambda tell: this_notebook().bring_up_to_date(client, "", tell), None)
    return client.id
