/** Marks the cells of one notebook that run or ran on a GPU, and keeps and shows where they did. */

import { CodeCell, type ICellModel } from '@jupyterlab/cells';
import { NotebookActions, type Notebook, type NotebookPanel } from '@jupyterlab/notebook';
import type { IDisposable } from '@lumino/disposable';
import type { PanelLayout } from '@lumino/widgets';

import { allSessions, loadOf, recentUtilisation, sessionOf, type IFoundSession } from '../lookup';
import type { Page } from '../page';
import {
  describeProvenance,
  describeRunning,
  provenanceOf,
  readProvenance,
  STARVED_AFTER_S
} from '../words/executions';
import type { IExecution, IPageState } from '../state';
import { asSentence } from '../words/sentences';
import { adviceForGpuCell, adviceForLocalCell } from './advice';
import { CellLine } from './line';
import { mergeExecutions } from './merged';
import { matchMissed } from './missed';
import { Replays } from './replay';
import { Runs, type IRun } from './runs';
import { usesGpu } from './usage';

export const METADATA_KEY = 'nbgpu';
const TICK_MS = 1000;

type Mark = 'running' | 'ran' | 'failed' | null;

export class NotebookCells implements IDisposable {
  private readonly _runs = new Runs();
  private readonly _lines = new Map<CodeCell, CellLine>();
  private readonly _replays: Replays;
  private _hold: IDisposable | null = null;
  private _timer: ReturnType<typeof setInterval> | null = null;
  private _isDisposed = false;

  constructor(
    private readonly page: Page,
    private readonly panel: NotebookPanel
  ) {
    this._replays = new Replays(page, panel, this._runs, () => {
      this._step();
    });
    page.changed.connect(this._onChanged);
    NotebookActions.executionScheduled.connect(this._onScheduled);
    NotebookActions.outputCleared.connect(this._onCleared);
    panel.content.modelContentChanged.connect(this._onContent);
    panel.disposed.connect(() => {
      this.dispose();
    });
    void panel.context.ready.then(() => {
      if (!this._isDisposed) {
        this._takeInterest();
        this._lookForMissed();
        this._keepProvenance();
        this._refresh();
      }
    });
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    this.page.changed.disconnect(this._onChanged);
    NotebookActions.executionScheduled.disconnect(this._onScheduled);
    NotebookActions.outputCleared.disconnect(this._onCleared);
    this._replays.dispose();
    this._hold?.dispose();
    if (this._timer !== null) {
      clearInterval(this._timer);
    }
  }

  /** The notebook's session; undefined while nobody follows the state. */
  private get _found(): IFoundSession | undefined {
    const kernelId = this.panel.sessionContext.session?.kernel?.id ?? null;
    return sessionOf(this.page.state, kernelId);
  }

  private get _codeCells(): CodeCell[] {
    return this.panel.content.widgets.filter(cell => cell instanceof CodeCell);
  }

  private readonly _onScheduled = (_: unknown, { notebook, cell }: IScheduled): void => {
    if (notebook !== this.panel.content || !(cell instanceof CodeCell)) {
      return;
    }
    forget(cell.model);
    this._replays.leave(cell);
    if (usesGpu(cell.model.sharedModel.getSource())) {
      this._follow();
    }
    // the request is made right after this signal
    setTimeout(() => {
      if (!cell.isDisposed) {
        this._runs.note(cell, () => {
          this._step();
        });
        this._step();
      }
    }, 0);
  };

  private readonly _onCleared = (_: unknown, { notebook, cell }: IScheduled): void => {
    if (notebook === this.panel.content) {
      forget(cell.model);
      if (cell instanceof CodeCell) {
        this._replays.putAway(cell);
      }
      this._refresh();
    }
  };

  private readonly _onContent = (): void => {
    this._refresh();
  };

  private readonly _onChanged = (): void => {
    if (this._hold === null && this._found !== undefined) {
      this._follow();
    }
    this._lookForMissed();
    this._keepProvenance();
    this._step();
  };

  /** Asks for what the cells lack, once they are there. */
  private _lookForMissed(): void {
    if (this.panel.context.isReady) {
      this._replays.look();
    }
  }

  /** Follows the state as long as the notebook is open, if a cell of it says that it uses GPUs. */
  private _takeInterest(): void {
    const isInterested = this._codeCells.some(
      ({ model }) =>
        readProvenance(model.getMetadata(METADATA_KEY)) !== null ||
        usesGpu(model.sharedModel.getSource())
    );
    if (isInterested) {
      this._follow();
    }
  }

  private _follow(): void {
    this._hold ??= this.page.feed.hold();
  }

  /** Writes what became of executions that cells of this page asked for; the load may come a second later. */
  private _keepProvenance(): void {
    const { state, settings } = this.page;
    if (state === null || !settings.values.provenance) {
      return;
    }
    const changed = new Set<IRun>();
    for (const { session } of allSessions(state)) {
      for (const execution of session.last_executions) {
        const run = this._runs.get(execution.request_id);
        if (run !== undefined) {
          run.ended.set(execution.started_unix_s, execution);
          changed.add(run);
        }
      }
    }
    for (const { cell, ended } of changed) {
      for (const execution of mergeExecutions([...ended.values()])) {
        keep(cell, execution);
      }
    }
    this._keepMissed(state);
  }

  /** Does so for cells that ended before their page was loaded anew, which does not know what they asked for. */
  private _keepMissed(state: IPageState): void {
    const kernelId = this.panel.sessionContext.session?.kernel?.id ?? null;
    const executions = allSessions(state)
      .filter(({ session }) => kernelId !== null && session.notebook_id === kernelId)
      .flatMap(({ session }) => session.last_executions);
    if (executions.length === 0) {
      return;
    }
    const cells = this._codeCells.map(cell => ({
      cell,
      executionCount: cell.model.executionCount,
      usesGpu: usesGpu(cell.model.sharedModel.getSource()),
      wasRunHere: this._runs.has(cell),
      keptRequestId: readProvenance(cell.model.getMetadata(METADATA_KEY))?.request_id ?? null
    }));
    for (const [{ cell }, execution] of matchMissed(cells, mergeExecutions(executions))) {
      keep(cell, execution);
    }
  }

  /** Shows what changed, and goes on doing so every second while a cell runs. */
  private _step(): void {
    if (this._isDisposed) {
      return;
    }
    const isRunning = this._runs.active.length > 0;
    if (isRunning && this._timer === null) {
      this._timer = setInterval(() => {
        this._showRuns();
      }, TICK_MS);
    } else if (!isRunning && this._timer !== null) {
      clearInterval(this._timer);
      this._timer = null;
    }
    this._refresh();
  }

  /** Brings the marks and lines of all cells up to date. */
  private _refresh(): void {
    this._runs.prune();
    for (const [cell] of this._lines) {
      if (cell.isDisposed) {
        this._lines.delete(cell);
      }
    }
    const active = new Set(this._runs.active.map(({ cell }) => cell));
    for (const cell of this._codeCells) {
      if (!active.has(cell)) {
        this._showPast(cell);
      }
    }
    this._showRuns();
  }

  private _showPast(cell: CodeCell): void {
    const provenance = readProvenance(cell.model.getMetadata(METADATA_KEY));
    if (provenance === null || cell.model.executionCount === null) {
      this._show(cell, null, null, null);
      return;
    }
    const isShown = this.page.settings.values.provenance;
    this._show(
      cell,
      provenance.succeeded === false ? 'failed' : 'ran',
      isShown ? describeProvenance(provenance) : null,
      null
    );
  }

  private _showRuns(): void {
    const executions = this._executing();
    for (const run of this._runs.active) {
      const there = executions.get(run.requestId);
      if (there === undefined) {
        this._show(run.cell, null, null, this._adviceForLocal(run));
      } else {
        const [found, execution] = there;
        const load = loadOf(found, this.page.history);
        const line = describeRunning(execution, load, this.page.now_s);
        this._show(run.cell, 'running', line, this._adviceForGpu(run, found, execution));
      }
    }
  }

  private _executing(): Map<string, [IFoundSession, IExecution]> {
    const executions = new Map<string, [IFoundSession, IExecution]>();
    const { state } = this.page;
    for (const found of state === null ? [] : allSessions(state)) {
      if (found.session.executing !== null) {
        executions.set(found.session.executing.request_id, [found, found.session.executing]);
      }
    }
    return executions;
  }

  private _adviceForLocal(run: IRun): string | null {
    if (run.isDismissed || run.started_s === null || !this.page.settings.values.warnings) {
      return null;
    }
    return adviceForLocalCell(
      this._found?.session ?? null,
      Date.now() / 1000 - run.started_s,
      this.page.settings.values.idleWarning_s
    );
  }

  private _adviceForGpu(run: IRun, found: IFoundSession, execution: IExecution): string | null {
    if (run.isDismissed || !this.page.settings.values.warnings) {
      return null;
    }
    const utilisation = recentUtilisation(found, this.page.history, STARVED_AFTER_S);
    const isCpu = found.session.accelerators.every(({ shared }) => shared);
    return isCpu ? null : adviceForGpuCell(utilisation, this.page.now_s - execution.started_unix_s);
  }

  private _show(cell: CodeCell, mark: Mark, text: string | null, advice: string | null): void {
    if (cell.isDisposed) {
      return;
    }
    for (const name of ['running', 'ran', 'failed'] as const) {
      cell.toggleClass(`nbgpu-mod-${name}`, mark === name);
    }
    let line = this._lines.get(cell);
    if (line === undefined) {
      if (text === null && advice === null) {
        return;
      }
      line = new CellLine(() => {
        for (const run of this._runs.active) {
          run.isDismissed ||= run.cell === cell;
        }
        this._showRuns();
      });
      this._lines.set(cell, line);
      void this._place(cell, line);
    }
    line.say(text, advice === null ? null : asSentence(advice));
  }

  /** A cell that was never in sight has no content yet. */
  private async _place(cell: CodeCell, line: CellLine): Promise<void> {
    await cell.ready;
    if (!cell.isDisposed && !line.isDisposed) {
      (cell.layout as PanelLayout).addWidget(line);
    }
  }
}

interface IScheduled {
  notebook: Notebook;
  cell: { model: ICellModel };
}

/** Writes it into the cell's metadata, unless it stands there already or still runs. */
function keep(cell: CodeCell, execution: IExecution): void {
  const provenance = provenanceOf(execution);
  if (cell.isDisposed || provenance === null) {
    return;
  }
  const kept: unknown = cell.model.getMetadata(METADATA_KEY);
  if (JSON.stringify(kept) !== JSON.stringify(provenance)) {
    cell.model.setMetadata(METADATA_KEY, provenance);
  }
}

/** What a cell that runs anew, or shows nothing any more, says about its last run is not true any more. */
function forget(model: ICellModel): void {
  if (model.getMetadata(METADATA_KEY) !== undefined) {
    model.deleteMetadata(METADATA_KEY);
  }
}
