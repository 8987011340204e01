/** One chart of one GPU over time, drawn by uPlot in the theme's colours. */

import * as React from 'react';
import uPlot from 'uplot';

import type { Track } from '../history';
import { formatClock, whereItFits, widthOfAxis } from './axes';
import type { ChartBoard, IView } from './board';
import type { IChartKind } from './scales';
import { thin } from './thinning';

const HEIGHT = 100;
/** All charts with this key show the same moment under the cursor. */
const SYNC_KEY = 'nbgpu';

export function Chart(props: {
  kind: IChartKind;
  track: Track;
  /** What the chart is of, for screen readers. */
  label: string;
  board: ChartBoard;
}): React.JSX.Element {
  const { kind, track, label, board } = props;
  const holder = React.useRef<HTMLDivElement>(null);

  React.useEffect(() => {
    const node = holder.current;
    if (node === null) {
      return;
    }
    const plot = new uPlot(options(kind, node), [[], ...kind.series.map(() => [])], node);
    const drawn = board.add({
      node,
      kind,
      draw: view => {
        draw(plot, kind, track, view);
      }
    });
    const observer = new ResizeObserver(() => {
      if (node.clientWidth > 0 && node.clientWidth !== plot.width) {
        plot.setSize({ width: node.clientWidth, height: HEIGHT });
      }
    });
    observer.observe(node);
    return () => {
      observer.disconnect();
      drawn.dispose();
      plot.destroy();
    };
  }, [board, kind, track]);

  return <div ref={holder} className="nbgpu-Chart" role="img" aria-label={label} />;
}

function draw(plot: uPlot, kind: IChartKind, track: Track, view: IView): void {
  const { from_unix_s, to_unix_s, top } = view;
  const values = kind.series.map(({ metric }) => track.values(metric, from_unix_s));
  const width_px = plot.bbox.width / uPlot.pxRatio;
  plot.batch(() => {
    plot.setData(thin(track.times(from_unix_s), values, to_unix_s - from_unix_s, width_px), false);
    plot.setScale('x', { min: from_unix_s, max: to_unix_s });
    plot.setScale('y', { min: 0, max: top });
  });
}

function options(kind: IChartKind, node: HTMLElement): uPlot.Options {
  // read once: asked anew for every drawing, they take as long as the drawing; another theme makes other charts
  const style = getComputedStyle(node);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const axis: uPlot.Axis = {
    stroke: colour('--jp-ui-font-color2'),
    grid: { stroke: colour('--jp-border-color3'), width: 1 },
    ticks: { show: false },
    font: '11px system-ui, sans-serif'
  };
  return {
    width: Math.max(50, node.clientWidth),
    height: HEIGHT,
    padding: [6, 4, 0, 0],
    legend: { show: false },
    scales: { x: { time: true, auto: false }, y: { auto: false } },
    cursor: { sync: { key: SYNC_KEY, scales: ['x', null] }, drag: { x: false, y: false } },
    hooks: {
      setCursor: [
        made => {
          showValues(made, kind, node);
        }
      ]
    },
    axes: [
      {
        ...axis,
        size: 20,
        values: (plot, splits, _, __, step_s) =>
          splits.map(split => whereItFits(formatClock(split, step_s), roomFor(plot, split)))
      },
      {
        ...axis,
        size: (_, words) => widthOfAxis(words),
        space: 30,
        ...(kind.steps === undefined ? {} : { incrs: [...kind.steps] }),
        values: (_, splits) => splits.map(kind.format)
      }
    ],
    series: [
      {},
      ...kind.series.map(({ label }, index): uPlot.Series => ({
        label,
        stroke: colour(index === 0 ? '--jp-brand-color1' : '--jp-accent-color1'),
        width: 1.5,
        points: { show: false },
        spanGaps: false
      }))
    ]
  };
}

/** What stands above the chart while the cursor is over this one or another. */
function showValues(made: uPlot, kind: IChartKind, node: HTMLElement): void {
  const index = made.cursor.idx;
  const out = node.parentElement?.querySelector('.nbgpu-ChartCell-value');
  if (out == null) {
    return;
  }
  if (index == null) {
    out.textContent = '';
    return;
  }
  out.textContent = kind.series
    .map(({ label }, position) => {
      const value = made.data[position + 1]?.[index];
      const text = value == null ? '–' : kind.format(value);
      return kind.series.length > 1 ? `${label} ${text}` : text;
    })
    .join(', ');
}

/** From a mark of the axis of time to the right edge, in pixels. */
function roomFor(plot: uPlot, unix_s: number): number {
  return plot.width - plot.bbox.left / uPlot.pxRatio - plot.valToPos(unix_s, 'x');
}
