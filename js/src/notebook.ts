/** Follows which notebook is in front, what it is called, and which kernel it has. */

import { PathExt } from '@jupyterlab/coreutils';
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';
import type { IDisposable } from '@lumino/disposable';
import { Signal, type ISignal } from '@lumino/signaling';

import type { INotebook } from './state';

/** What the state calls the notebook of a panel. */
export function notebookOf(panel: NotebookPanel): INotebook {
  return {
    name: PathExt.basename(panel.context.path),
    kernelId: panel.sessionContext.session?.kernel?.id ?? null
  };
}

/** The notebook last in front stays the one, while a terminal or a text is in front of it. */
export class NotebookInFront implements IDisposable {
  private _panel: NotebookPanel | null = null;
  private _changed = new Signal<this, null>(this);
  private _isDisposed = false;

  constructor(private readonly tracker: INotebookTracker) {
    tracker.currentChanged.connect(this._onCurrentChanged);
    this._onCurrentChanged(tracker, tracker.currentWidget);
  }

  /** Null: there is none. */
  get panel(): NotebookPanel | null {
    const panel = this._panel;
    return panel === null || panel.isDisposed ? null : panel;
  }

  /** Null: there is none. */
  get current(): INotebook | null {
    const panel = this.panel;
    return panel === null ? null : notebookOf(panel);
  }

  get changed(): ISignal<this, null> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    this._leave();
    this.tracker.currentChanged.disconnect(this._onCurrentChanged);
    Signal.clearData(this);
  }

  private readonly _onCurrentChanged = (_: INotebookTracker, panel: NotebookPanel | null): void => {
    this._leave();
    this._panel = panel;
    if (panel !== null) {
      panel.context.pathChanged.connect(this._emit);
      panel.sessionContext.kernelChanged.connect(this._emit);
      panel.sessionContext.sessionChanged.connect(this._emit);
    }
    this._emit();
  };

  private _leave(): void {
    const panel = this._panel;
    this._panel = null;
    if (panel !== null && !panel.isDisposed) {
      panel.context.pathChanged.disconnect(this._emit);
      panel.sessionContext.kernelChanged.disconnect(this._emit);
      panel.sessionContext.sessionChanged.disconnect(this._emit);
    }
  }

  private readonly _emit = (): void => {
    this._changed.emit(null);
  };
}
