"""`python -m benchmarks [NAME …]`: runs all benchmarks, or those that are named, and prints one table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from benchmarks import (
    attach,
    cell_latency,
    environments,
    first_cell,
    idle_sessions,
    live_view,
    output_flood,
    ranks,
    reconnection,
    spmd,
    values,
)
from benchmarks.measurement import Row, format_table

BENCHMARKS: dict[str, Callable[[], Sequence[Row]]] = {
    "cell_latency": cell_latency.run,
    "output_flood": output_flood.run,
    "first_cell": first_cell.run,
    "values": values.run,
    "environments": environments.run,
    "live_view": live_view.run,
    "attach": attach.run,
    "ranks": ranks.run,
    "idle_sessions": idle_sessions.run,
    "spmd": spmd.run,
    "reconnection": reconnection.run,
}


def main(names: Sequence[str]) -> int:
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}\n\nhint: there are {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    rows: list[Row] = []
    for name in names or BENCHMARKS:
        print(f"measuring {name}", file=sys.stderr, flush=True)
        rows += BENCHMARKS[name]()
    print(format_table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
