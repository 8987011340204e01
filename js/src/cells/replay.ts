/** Puts the output that a notebook's cells lack under them: what was said while nobody was there, and what follows. */

import { CodeCellModel, type CodeCell } from '@jupyterlab/cells';
import type { NotebookPanel } from '@jupyterlab/notebook';
import type { IDisposable } from '@lumino/disposable';

import { allSessions } from '../lookup';
import type { Page } from '../page';
import type { IPageState, IReplayedOutput, IReplayMessage } from '../state';
import { OutputFeeder, shows, type Output } from './outputs';
import type { IFollowedRun, Runs } from './runs';
import { usesGpu } from './usage';

const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 15_000;
/** In a row and without a word, after which the next change is waited for: the server may not have the kernel. */
const MAX_FAILURES = 8;
/** With which the server says that it has sent all there is. */
const CLOSED_NORMALLY = 1000;

/** One cell on its way to have what it lacks. */
interface IReplay {
  cell: CodeCell;
  /** What has come and is not shown: until it is known what there is, what the cell has stays. */
  waiting: IReplayedOutput[];
  /** Null until it is shown. */
  feeder: OutputFeeder | null;
  run: IFollowedRun | null;
  /** The cell is left as it is. */
  isLeft: boolean;
}

/**
 * Asks the Jupyter server what the cells lack: when the notebook is opened, when it has another kernel, and when a
 * session comes that may be its own. The server finds the executions; here is decided what becomes of the cell.
 *
 * A cell is left alone that runs or has run in this page, unless its kernel was lost under it, or that shows all of it
 * already. Of notebooks that several people edit nothing is touched: each of their pages would do it.
 */
export class Replays implements IDisposable {
  private readonly _replays = new Map<string, IReplay>();
  private readonly _unsaved = new Set<string>();
  private _socket: WebSocket | null = null;
  private _asked = '';
  private _timer: ReturnType<typeof setTimeout> | undefined;
  private _retry_ms = FIRST_RETRY_MS;
  private _failures = 0;
  private _isDisposed = false;

  /** `onStep` is called when a cell begins or ends to have what it lacks, after which it is as if it ran or had run. */
  constructor(
    private readonly page: Page,
    private readonly panel: NotebookPanel,
    private readonly runs: Runs,
    private readonly onStep: () => void
  ) {
    panel.context.saveState.connect(this._onSave);
    panel.sessionContext.kernelChanged.connect(this._look);
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    this._isDisposed = true;
    this.panel.context.saveState.disconnect(this._onSave);
    this.panel.sessionContext.kernelChanged.disconnect(this._look);
    this._close();
  }

  /** Asks, if there may be something that was not asked for yet. To be called whenever the state has changed. */
  look(): void {
    const kernelId = this._kernelId;
    const { state, feed } = this.page;
    if (feed.status.problem !== null) {
      this._asked = '';
    }
    if (state === null || kernelId === null || feed.status.problem !== null || this._isDisposed) {
      return;
    }
    const sessions = sessionsToAsk(state, kernelId);
    const question = JSON.stringify([kernelId, sessions, this.runs.lost]);
    if (sessions.length > 0 && question !== this._asked) {
      this._asked = question;
      this._retry_ms = FIRST_RETRY_MS;
      this._failures = 0;
      this._ask(kernelId);
    }
  }

  /** Leaves a cell alone from now on, since it runs anew. */
  leave(cell: CodeCell): void {
    const replay = this._replays.get(cell.model.id);
    if (replay?.cell === cell) {
      this._replays.delete(cell.model.id);
      replay.run?.end();
    }
  }

  /** Takes note that a person does not want to see the output of a cell any more. */
  putAway(cell: CodeCell): void {
    if (usesGpu(cell.model.sharedModel.getSource()) || this.runs.has(cell)) {
      this._noteSaved([cell.model.id]);
    }
  }

  private get _kernelId(): string | null {
    return this.panel.sessionContext.session?.kernel?.id ?? null;
  }

  private readonly _look = (): void => {
    this.look();
  };

  private _ask(kernelId: string): void {
    this._close();
    const model = this.panel.content.model;
    if (model === null || model.collaborative) {
      return;
    }
    const cells = this.panel.content.widgets.filter(
      cell => cell.model.type === 'code' && !this.runs.isKnown(cell as CodeCell)
    ) as CodeCell[];
    const byId = new Map(cells.map(cell => [cell.model.id, cell]));
    const socket = this.page.server.openReplay(kernelId);
    this._socket = socket;
    socket.onopen = () => {
      const told = cells
        .filter(cell => !cell.isDisposed)
        .map(({ model }) => ({ id: model.id, source: model.sharedModel.getSource() }));
      socket.send(JSON.stringify({ kind: 'cells', cells: told }));
    };
    socket.onmessage = (event: MessageEvent<string>) => {
      this._retry_ms = FIRST_RETRY_MS;
      this._failures = 0;
      const message = JSON.parse(event.data) as IReplayMessage;
      const cell = byId.get(message.cell_id);
      if (cell !== undefined && !cell.isDisposed) {
        this._take(cell, message);
      }
    };
    socket.onclose = event => {
      this._socket = null;
      if (event.code !== CLOSED_NORMALLY && ++this._failures < MAX_FAILURES) {
        this._timer = setTimeout(() => {
          if (this._kernelId === kernelId) {
            this._ask(kernelId);
          }
        }, this._retry_ms);
        this._retry_ms = Math.min(2 * this._retry_ms, LAST_RETRY_MS);
      }
    };
  }

  private _take(cell: CodeCell, message: IReplayMessage): void {
    let replay = this._replays.get(message.cell_id);
    if (replay === undefined) {
      if (this.runs.isKnown(cell)) {
        return; // it was run since the question
      }
      replay = { cell, waiting: [], feeder: null, run: null, isLeft: false };
      this._replays.set(message.cell_id, replay);
    }
    if (replay.isLeft) {
      return;
    }
    replay.waiting.push(...message.outputs);
    if (replay.feeder === null) {
      if (!message.caught_up && !message.over) {
        return;
      }
      replay.run ??= this.runs.follow(message.request_id, cell);
      if (this._isToBeLeft(replay, message)) {
        replay.isLeft = true;
        this._end(replay, message);
        return;
      }
      begin(cell);
      replay.feeder = new OutputFeeder(cell.model.outputs);
      this.onStep();
    }
    for (const output of replay.waiting.splice(0)) {
      replay.feeder.feed(output);
    }
    if (message.over) {
      cell.model.executionState = 'idle';
      cell.model.executionCount = message.execution_count;
      this._end(replay, message);
    }
  }

  private _isToBeLeft({ cell, waiting }: IReplay, message: IReplayMessage): boolean {
    const shown: Output[] = cell.model.outputs.toJSON();
    if (shown.length === 0) {
      return false;
    }
    if (message.dropped > 0) {
      return true; // what the cell has may be more
    }
    if (!message.over) {
      return false;
    }
    const all = CodeCellModel.defaultContentFactory.createOutputArea({ trusted: true });
    const feeder = new OutputFeeder(all);
    for (const output of waiting) {
      feeder.feed(output);
    }
    const isShown = shows(shown, all.toJSON());
    all.dispose();
    return isShown;
  }

  private _end(replay: IReplay, message: IReplayMessage): void {
    if (message.over) {
      this._replays.delete(message.cell_id);
    }
    this._unsaved.add(message.cell_id);
    replay.run?.end();
    this.onStep();
  }

  private readonly _onSave = (_: unknown, saveState: string): void => {
    if (saveState !== 'completed') {
      return;
    }
    for (const { cell } of this.runs.completed) {
      this._unsaved.add(cell.model.id);
    }
    const running = new Set(this.runs.active.map(({ cell }) => cell.model.id));
    const saved = [...this._unsaved].filter(id => !running.has(id));
    if (saved.length > 0) {
      this._noteSaved(saved);
    }
  };

  private _noteSaved(cellIds: readonly string[]): void {
    const kernelId = this._kernelId;
    const state = this.page.state;
    if (kernelId === null || state === null || sessionsToAsk(state, kernelId).length === 0) {
      return;
    }
    for (const id of cellIds) {
      this._unsaved.delete(id);
    }
    this.page.server.noteSaved(kernelId, cellIds).catch(() => {
      // it is found to be there when the notebook is opened
    });
  }

  private _close(): void {
    clearTimeout(this._timer);
    const socket = this._socket;
    this._socket = null;
    if (socket !== null) {
      socket.onopen = null;
      socket.onmessage = null;
      socket.onclose = null;
      socket.close();
    }
    // the next answer begins at the beginning again
    for (const { run, cell } of this._replays.values()) {
      run?.lose();
      if (!cell.isDisposed && run !== null) {
        cell.model.executionState = 'idle';
      }
    }
    this._replays.clear();
  }
}

/** The ids of the sessions that the notebook has, or may have had with a kernel that is gone. Pure. */
export function sessionsToAsk(state: IPageState, kernelId: string): string[] {
  return allSessions(state)
    .map(({ session }) => session)
    .filter(
      ({ phase, notebook_id, notebook_key, notebook_connected }) =>
        phase === 'ready' &&
        (notebook_id === kernelId ||
          (notebook_id !== null && notebook_key !== null && !notebook_connected))
    )
    .map(({ id }) => id)
    .sort();
}

/** Has the cell be as one that has just been run: `CodeCell.execute` does the same. */
function begin(cell: CodeCell): void {
  const { model } = cell;
  model.sharedModel.transact(
    () => {
      model.clearExecution();
      cell.outputHidden = false;
    },
    false,
    'silent-change'
  );
  model.executionState = 'running';
  model.trusted = true;
}
