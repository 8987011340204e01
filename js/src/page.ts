/** What all parts of the page share: the feed, the samples, the notebook in front, and what a person can do. */

import { Token } from '@lumino/coreutils';
import { Signal, type ISignal } from '@lumino/signaling';

import type { Actions } from './actions';
import type { Feed } from './feed';
import type { History } from './history';
import type { NotebookInFront } from './notebook';
import type { Server } from './server';
import type { Settings } from './settings';
import type { IPageState } from './state';

/** Handed to the plugins that show something. */
export const IPage = new Token<Page>(
  '@nbgpu/labextension:IPage',
  'The state of the pools, and what can be done with them.'
);

export class Page {
  private _changed = new Signal<this, null>(this);
  private _sampled = new Signal<this, null>(this);

  constructor(
    readonly feed: Feed,
    readonly server: Server,
    readonly history: History,
    readonly notebook: NotebookInFront,
    readonly actions: Actions,
    readonly settings: Settings
  ) {
    feed.changed.connect(this._emit);
    notebook.changed.connect(this._emit);
    settings.changed.connect(this._emit);
    actions.problemChanged.connect(this._emit);
    feed.sampled.connect((_, { pool, samples }) => {
      history.add(pool, samples);
      this._sampled.emit(null);
    });
  }

  /** The newest state; null before the first. */
  get state(): IPageState | null {
    return this.feed.status.state;
  }

  /** The time by the server's clock, in seconds since 1970. */
  get now_s(): number {
    return Date.now() / 1000 + this.feed.status.clockOffset_s;
  }

  /** Anything but samples changed. */
  get changed(): ISignal<this, null> {
    return this._changed;
  }

  /** Samples came. */
  get sampled(): ISignal<this, null> {
    return this._sampled;
  }

  /** Fetches what was recorded of all pools that are connected; what cannot be had stays unknown. */
  async backfill(history_s: number, step_s: number): Promise<void> {
    const pools = (this.state?.pools ?? []).filter(({ link }) => link === 'connected');
    await Promise.all(
      pools.map(async ({ name }) => {
        try {
          this.history.merge(name, await this.server.samples(history_s, step_s, name));
        } catch {
          // the state says what is wrong with the pool; the charts fill as samples come
        }
      })
    );
    this._sampled.emit(null);
  }

  private readonly _emit = (): void => {
    this._changed.emit(null);
  };
}
