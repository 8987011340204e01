/** Draws the charts that are in sight: all of them at once, over the same span and on shared scales. */

import type { IDisposable } from '@lumino/disposable';
import { DisposableDelegate } from '@lumino/disposable';

import type { Track } from '../history';
import { sharedTop, type IChartKind } from './scales';

/** What one chart shows. */
export interface IView {
  from_unix_s: number;
  to_unix_s: number;
  top: number;
}

export interface IBoardChart {
  readonly node: HTMLElement;
  readonly kind: IChartKind;
  draw(view: IView): void;
}

/** A chart out of sight costs nothing, and is drawn when it is scrolled into sight. */
export class ChartBoard implements IDisposable {
  private readonly _charts = new Map<Element, IBoardChart>();
  private readonly _inSight = new Set<IBoardChart>();
  private readonly _views = new Map<IChartKind, IView>();
  private readonly _observer = new IntersectionObserver(entries => {
    for (const { target, isIntersecting } of entries) {
      const chart = this._charts.get(target);
      if (chart === undefined) {
        continue;
      }
      if (isIntersecting) {
        this._inSight.add(chart);
        this._drawOne(chart);
      } else {
        this._inSight.delete(chart);
      }
    }
  });

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    this._isDisposed = true;
    this._observer.disconnect();
    this._charts.clear();
    this._inSight.clear();
  }

  /** Draws the chart from now on, until the result is disposed of. */
  add(chart: IBoardChart): IDisposable {
    this._charts.set(chart.node, chart);
    this._observer.observe(chart.node);
    return new DisposableDelegate(() => {
      this._observer.unobserve(chart.node);
      this._charts.delete(chart.node);
      this._inSight.delete(chart);
    });
  }

  /** Draws the last `span_s` seconds of these tracks. */
  draw(kinds: readonly IChartKind[], tracks: readonly Track[], span_s: number): void {
    const to_unix_s = Math.max(0, ...tracks.map(({ latest }) => latest?.time_unix_s ?? 0));
    const from_unix_s = to_unix_s - span_s;
    this._views.clear();
    for (const kind of kinds) {
      const top = sharedTop(kind, tracks, from_unix_s) ?? kind.atLeast;
      this._views.set(kind, { from_unix_s, to_unix_s, top });
    }
    for (const chart of this._inSight) {
      this._drawOne(chart);
    }
  }

  private _drawOne(chart: IBoardChart): void {
    const view = this._views.get(chart.kind);
    if (view !== undefined) {
      chart.draw(view);
    }
  }

  private _isDisposed = false;
}
