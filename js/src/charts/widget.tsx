/** The wide panel in the main area, which follows the page while it can be seen. */

import type { IThemeManager } from '@jupyterlab/apputils';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { IDisposable } from '@lumino/disposable';
import type { Message } from '@lumino/messaging';
import { Signal } from '@lumino/signaling';
import * as React from 'react';

import { gpuIcon } from '../icon';
import type { Page } from '../page';
import { ChartsContent } from './content';

export class ChartsWidget extends ReactWidget {
  private _hold: IDisposable | null = null;
  private _changed = new Signal<this, null>(this);
  private _sampled = new Signal<this, null>(this);
  private _themed = 0;

  constructor(
    private readonly page: Page,
    private readonly themes: IThemeManager | null
  ) {
    super();
    this.id = 'nbgpu-charts';
    this.addClass('nbgpu-Charts');
    this.title.label = 'GPU charts';
    this.title.icon = gpuIcon;
    this.title.closable = true;
    page.sampled.connect(this._onSampled);
    page.changed.connect(this._onChanged);
    themes?.themeChanged.connect(this._onTheme);
  }

  override render(): React.JSX.Element {
    return (
      <ChartsContent
        key={this._themed}
        page={this.page}
        changed={this._changed}
        sampled={this._sampled}
      />
    );
  }

  override dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._hold?.dispose();
    this.page.sampled.disconnect(this._onSampled);
    this.page.changed.disconnect(this._onChanged);
    this.themes?.themeChanged.disconnect(this._onTheme);
    super.dispose();
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._follow();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (this.isVisible) {
      this._follow();
    }
  }

  protected override onAfterHide(message: Message): void {
    super.onAfterHide(message);
    this._hold?.dispose();
    this._hold = null;
  }

  private _follow(): void {
    this._hold ??= this.page.feed.hold();
    this._changed.emit(null);
  }

  private readonly _onChanged = (): void => {
    if (this.isVisible) {
      this._changed.emit(null);
    }
  };

  private readonly _onSampled = (): void => {
    if (this.isVisible) {
      this._sampled.emit(null);
    }
  };

  /** uPlot keeps the colours that it was made with. */
  private readonly _onTheme = (): void => {
    this._themed++;
    this.update();
  };
}
