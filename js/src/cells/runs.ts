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
  /** The kernel, or the way to it, was gone before it was done: what it said then is not known here. */
  isLost: boolean;
  isDismissed: boolean;
  /** What it made run in sessions and has ended, by when it began there; the agent remembers only the latest. */
  ended: Map<number, IExecution>;
}

/** A run that another page asked for. */
export interface IFollowedRun {
  /** All that it said is known here. */
  end(): void;
  /** What else it says is not. */
  lose(): void;
}

export class Runs {
  private _runs = new Map<string, IRun>();

  /** Those that the kernel is not done with. */
  get active(): IRun[] {
    return [...this._runs.values()].filter(({ isDone }) => !isDone);
  }

  /** Those of which the page has all that was said. */
  get completed(): IRun[] {
    return [...this._runs.values()].filter(({ isDone, isLost }) => isDone && !isLost);
  }

  /** The requests of those of which it has not. */
  get lost(): string[] {
    return [...this._runs.values()].filter(({ isLost }) => isLost).map(run => run.requestId);
  }

  /** Whether the page has, or will have, all that the cell's last run says. */
  isKnown(cell: CodeCell): boolean {
    return [...this._runs.values()].some(run => run.cell === cell && !run.isLost);
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
    const run = this._begin(future.msg.header.msg_id, cell);
    future.registerMessageHook(message => {
      if (message.header.msg_type === 'execute_input') {
        run.started_s = Date.now() / 1000;
        onStep();
      }
      return true;
    });
    const end = (isLost: boolean) => {
      run.isDone = true;
      run.isLost = isLost;
      onStep();
    };
    future.done.then(
      () => {
        end(false);
      },
      () => {
        end(true);
      }
    );
  }

  /** Takes down a request that another page made, and whose output this one gets. */
  follow(requestId: string, cell: CodeCell): IFollowedRun {
    const run = this._begin(requestId, cell);
    return {
      end: () => {
        run.isDone = true;
      },
      lose: () => {
        run.isLost ||= !run.isDone;
        run.isDone = true;
      }
    };
  }

  private _begin(requestId: string, cell: CodeCell): IRun {
    for (const run of this._runs.values()) {
      if (run.cell === cell) {
        this._runs.delete(run.requestId);
      }
    }
    const run: IRun = {
      requestId,
      cell,
      started_s: null,
      isDone: false,
      isLost: false,
      isDismissed: false,
      ended: new Map()
    };
    this._runs.set(requestId, run);
    return run;
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
