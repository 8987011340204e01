/** Remembers which execute_request belongs to which cell, and when the kernel began with it. */

import type { CodeCell } from '@jupyterlab/cells';

import type { IExecution } from '../state';

/** One run of a cell, from when it is asked for until the kernel is done with it. */
export interface IRun {
  /** The `msg_id` of the execute_request. */
  requestId: string;
  cell: CodeCell;
  /** By this machine's clock; null while it waits for other cells. */
  started_s: number | null;
  isDone: boolean;
  isDismissed: boolean;
  /** What it made run in sessions and has ended, by when it began there; the agent remembers only the latest. */
  ended: Map<number, IExecution>;
}

export class Runs {
  private _runs = new Map<string, IRun>();

  /** Those that the kernel is not done with. */
  get active(): IRun[] {
    return [...this._runs.values()].filter(({ isDone }) => !isDone);
  }

  /** Undefined for a request that no cell of this page has made. */
  get(requestId: string): IRun | undefined {
    return this._runs.get(requestId);
  }

  /** Whether the cell has made a request in this page. */
  has(cell: CodeCell): boolean {
    return [...this._runs.values()].some(run => run.cell === cell);
  }

  /** Takes down the request that the cell has just made; `onStep` is called when it begins and ends. */
  note(cell: CodeCell, onStep: () => void): void {
    const future = cell.outputArea.future as CodeCell['outputArea']['future'] | null | undefined;
    if (future == null || future.isDisposed || this._runs.has(future.msg.header.msg_id)) {
      return;
    }
    for (const run of this._runs.values()) {
      if (run.cell === cell) {
        this._runs.delete(run.requestId);
      }
    }
    const run: IRun = {
      requestId: future.msg.header.msg_id,
      cell,
      started_s: null,
      isDone: false,
      isDismissed: false,
      ended: new Map()
    };
    this._runs.set(run.requestId, run);
    future.registerMessageHook(message => {
      if (message.header.msg_type === 'execute_input') {
        run.started_s = Date.now() / 1000;
        onStep();
      }
      return true;
    });
    const end = () => {
      run.isDone = true;
      onStep();
    };
    future.done.then(end, end);
  }

  /** Forgets the runs of cells that are gone. */
  prune(): void {
    for (const run of this._runs.values()) {
      if (run.cell.isDisposed) {
        this._runs.delete(run.requestId);
      }
    }
  }
}
