/** Which charts a GPU gets, and the scale that all GPUs share so that they can be compared. Pure. */

import type { Metric, Track } from '../history';
import { formatRate } from '../words/quantities';

export interface IChartKind {
  title: string;
  /** One line each. */
  series: readonly { metric: Metric; label: string }[];
  /** What the axis must reach at least, whatever is measured. */
  atLeast: number;
  /** Steps between the axis's marks; where unset, round decimal numbers. */
  steps?: readonly number[];
  /** Of the axis: turns a value into what stands beside it. */
  format: (value: number) => string;
}

const GIB = 2 ** 30;

export const CHARTS: readonly IChartKind[] = [
  {
    title: 'Utilisation',
    series: [{ metric: 'utilisation_percent', label: 'busy' }],
    atLeast: 100,
    format: value => `${Math.round(value)}%`
  },
  {
    title: 'Memory',
    series: [{ metric: 'memory_used_bytes', label: 'used' }],
    atLeast: GIB,
    steps: [0.25, 0.5, 1, 2, 4, 5, 10, 20, 40, 50, 100, 200, 400].map(step => step * GIB),
    format: value => `${+(value / GIB).toFixed(1)} GiB`
  },
  {
    title: 'Power',
    series: [{ metric: 'power_watts', label: 'power' }],
    atLeast: 100,
    format: value => `${Math.round(value)} W`
  },
  {
    title: 'Temperature',
    series: [{ metric: 'temperature_celsius', label: 'temperature' }],
    atLeast: 90,
    format: value => `${Math.round(value)} °C`
  },
  {
    title: 'SM clock',
    series: [{ metric: 'sm_clock_mhz', label: 'clock' }],
    atLeast: 1000,
    format: value => `${Math.round(value)} MHz`
  },
  {
    title: 'PCIe',
    series: [
      { metric: 'pcie_tx_bytes_per_s', label: 'out' },
      { metric: 'pcie_rx_bytes_per_s', label: 'in' }
    ],
    atLeast: 1e6,
    format: formatRate
  },
  {
    title: 'NVLink',
    series: [
      { metric: 'nvlink_tx_bytes_per_s', label: 'out' },
      { metric: 'nvlink_rx_bytes_per_s', label: 'in' }
    ],
    atLeast: 1e6,
    format: formatRate
  }
];

/** Whether any of these tracks knows something to draw: no chart else. */
export function isKnown(kind: IChartKind, tracks: readonly Track[], from_unix_s: number): boolean {
  return tracks.some(track => kind.series.some(({ metric }) => track.knows(metric, from_unix_s)));
}

/** The top of the axis that all these tracks share; null where none of them knows the metric. */
export function sharedTop(
  kind: IChartKind,
  tracks: readonly Track[],
  from_unix_s: number
): number | null {
  let top: number | null = null;
  for (const track of tracks) {
    for (const { metric } of kind.series) {
      for (const value of track.values(metric, from_unix_s)) {
        if (!Number.isNaN(value)) {
          top = Math.max(top ?? 0, value);
        }
      }
    }
    const capacity = kind.title === 'Memory' ? track.latest?.memory_total_bytes : null;
    if (top !== null && capacity != null) {
      top = Math.max(top, capacity);
    }
  }
  return top === null ? null : Math.max(kind.atLeast, top);
}
