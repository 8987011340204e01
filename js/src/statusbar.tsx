/** The status bar's item: how busy the accelerators of the notebook in front are, and their memory. */

import { ReactWidget } from '@jupyterlab/ui-components';
import { Signal, type ISignal } from '@lumino/signaling';
import * as React from 'react';

import { loadOf, sessionOf, type IFoundSession } from './lookup';
import type { Page } from './page';
import { describeAccelerators } from './words/accelerators';
import { formatPercent, formatUsed } from './words/quantities';

export class StatusBarItem extends ReactWidget {
  private _isActive = false;
  private _activeChanged = new Signal<this, void>(this);

  constructor(
    private readonly page: Page,
    private readonly onClick: () => void
  ) {
    super();
    this.addClass('nbgpu-StatusBarItem');
    page.changed.connect(this._onChanged);
    page.sampled.connect(this._onChanged);
  }

  /** Whether there is something to show. */
  get isActive(): boolean {
    return this._isActive;
  }

  get activeChanged(): ISignal<this, void> {
    return this._activeChanged;
  }

  override render(): React.JSX.Element | null {
    const found = this._found;
    if (found === undefined) {
      return null;
    }
    const load = loadOf(found, this.page.history);
    const accelerators = describeAccelerators(found.session.accelerators);
    return (
      <button
        type="button"
        className="nbgpu-StatusBarItem-button"
        title="Show the GPU panel"
        onClick={this.onClick}
      >
        <span>
          {accelerators ?? 'no accelerators'}
          {load.utilisation_percent !== null && ` · ${formatPercent(load.utilisation_percent)}`}
        </span>
        {load.memory_used_bytes !== null && (
          <span>{formatUsed(load.memory_used_bytes, load.memory_total_bytes)}</span>
        )}
      </button>
    );
  }

  private get _found(): IFoundSession | undefined {
    const { page } = this;
    if (!page.settings.values.statusBar || !page.feed.isRunning) {
      return undefined;
    }
    return sessionOf(page.state, page.notebook.current?.kernelId ?? null);
  }

  private readonly _onChanged = (): void => {
    const isActive = this._found !== undefined;
    if (isActive !== this._isActive) {
      this._isActive = isActive;
      this._activeChanged.emit();
    }
    if (isActive) {
      this.update();
    }
  };
}
