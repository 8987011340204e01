/** The samples of the last hour, in columns: what sparklines and charts draw, and what rows say. */

import type { ISample } from './state';

/** What is kept. */
export const SPAN_S = 3600;
const FIRST_CAPACITY = 128;

/** What can be drawn over time. */
export type Metric =
  | 'utilisation_percent'
  | 'memory_used_bytes'
  | 'power_watts'
  | 'temperature_celsius'
  | 'sm_clock_mhz'
  | 'pcie_tx_bytes_per_s'
  | 'pcie_rx_bytes_per_s'
  | 'nvlink_tx_bytes_per_s'
  | 'nvlink_rx_bytes_per_s';

export const METRICS: readonly Metric[] = [
  'utilisation_percent',
  'memory_used_bytes',
  'power_watts',
  'temperature_celsius',
  'sm_clock_mhz',
  'pcie_tx_bytes_per_s',
  'pcie_rx_bytes_per_s',
  'nvlink_tx_bytes_per_s',
  'nvlink_rx_bytes_per_s'
];

/** The readings of one accelerator in order of time; NaN is unknown. */
export class Track {
  private _times = new Float64Array(FIRST_CAPACITY);
  private _columns = new Map<Metric, Float64Array>(
    METRICS.map(metric => [metric, new Float64Array(FIRST_CAPACITY)])
  );
  private _start = 0;
  private _end = 0;
  private _latest: ISample | null = null;

  get latest(): ISample | null {
    return this._latest;
  }

  get length(): number {
    return this._end - this._start;
  }

  /** When the first kept reading was taken, in seconds since 1970; null without one. */
  get first_unix_s(): number | null {
    return this.length === 0 ? null : (this._times[this._start] ?? null);
  }

  /** Adds a reading that is later than the newest; passes over any other. */
  add(sample: ISample): void {
    if (this._latest !== null && sample.time_unix_s <= this._latest.time_unix_s) {
      return;
    }
    this._latest = sample;
    this._drop(sample.time_unix_s - SPAN_S);
    this._makeRoom();
    this._times[this._end] = sample.time_unix_s;
    for (const [metric, column] of this._columns) {
      column[this._end] = sample[metric] ?? NaN;
    }
    this._end++;
  }

  /** Puts readings that came late before, between and behind those that are kept. */
  merge(samples: readonly ISample[]): void {
    const kept = new Set(this.times());
    const rows = [...this._rows()];
    for (const sample of samples) {
      if (!kept.has(sample.time_unix_s)) {
        rows.push({
          time_unix_s: sample.time_unix_s,
          values: METRICS.map(metric => sample[metric] ?? NaN)
        });
      }
      if (this._latest === null || sample.time_unix_s > this._latest.time_unix_s) {
        this._latest = sample;
      }
    }
    rows.sort((a, b) => a.time_unix_s - b.time_unix_s);
    this._start = this._end = 0;
    const oldest = (this._latest?.time_unix_s ?? 0) - SPAN_S;
    for (const { time_unix_s, values } of rows) {
      if (time_unix_s >= oldest) {
        this._makeRoom();
        this._times[this._end] = time_unix_s;
        METRICS.forEach((metric, index) => {
          this._column(metric)[this._end] = values[index] ?? NaN;
        });
        this._end++;
      }
    }
  }

  /** The times of the readings from then on; a view, to be read at once. */
  times(from_unix_s = -Infinity): Float64Array {
    return this._times.subarray(this._indexOf(from_unix_s), this._end);
  }

  /** The readings of a metric at those times; a view, to be read at once. */
  values(metric: Metric, from_unix_s = -Infinity): Float64Array {
    return this._column(metric).subarray(this._indexOf(from_unix_s), this._end);
  }

  /** The mean of what is known of a metric from then on; null where nothing is. */
  mean(metric: Metric, from_unix_s: number): number | null {
    let sum = 0;
    let known = 0;
    for (const value of this.values(metric, from_unix_s)) {
      if (!Number.isNaN(value)) {
        sum += value;
        known++;
      }
    }
    return known === 0 ? null : sum / known;
  }

  /** Whether anything is known of a metric from then on. */
  knows(metric: Metric, from_unix_s: number): boolean {
    const column = this._column(metric);
    const first = this._indexOf(from_unix_s);
    // the newest first: most of what was ever known is known now
    for (let index = this._end - 1; index >= first; index--) {
      if (!Number.isNaN(column[index])) {
        return true;
      }
    }
    return false;
  }

  private _column(metric: Metric): Float64Array {
    const column = this._columns.get(metric);
    if (column === undefined) {
      throw new Error(`no column ${metric}`);
    }
    return column;
  }

  private *_rows(): Generator<{ time_unix_s: number; values: number[] }> {
    for (let index = this._start; index < this._end; index++) {
      yield {
        time_unix_s: this._times[index] ?? NaN,
        values: METRICS.map(metric => this._column(metric)[index] ?? NaN)
      };
    }
  }

  private _indexOf(from_unix_s: number): number {
    let low = this._start;
    let high = this._end;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this._times[middle] ?? NaN) < from_unix_s) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }

  private _drop(before_unix_s: number): void {
    this._start = this._indexOf(before_unix_s);
  }

  /** Moves what is kept to the front, into arrays twice as long where it fills more than half of them. */
  private _makeRoom(): void {
    if (this._end < this._times.length) {
      return;
    }
    const capacity = this.length * 2 > this._times.length ? this._times.length * 2 : undefined;
    const move = (column: Float64Array) => {
      const moved = new Float64Array(capacity ?? column.length);
      moved.set(column.subarray(this._start, this._end));
      return moved;
    };
    this._times = move(this._times);
    for (const [metric, column] of this._columns) {
      this._columns.set(metric, move(column));
    }
    this._end -= this._start;
    this._start = 0;
  }
}

/** The tracks of all accelerators of all pools. */
export class History {
  private _tracks = new Map<string, Track>();

  /** Adds what came just now, in order of time. */
  add(pool: string, samples: readonly ISample[]): void {
    for (const sample of samples) {
      this._trackOf(pool, sample.accelerator_id).add(sample);
    }
  }

  /** Adds what was recorded earlier. */
  merge(pool: string, samples: readonly ISample[]): void {
    const byAccelerator = new Map<string, ISample[]>();
    for (const sample of samples) {
      const list = byAccelerator.get(sample.accelerator_id) ?? [];
      list.push(sample);
      byAccelerator.set(sample.accelerator_id, list);
    }
    for (const [acceleratorId, list] of byAccelerator) {
      this._trackOf(pool, acceleratorId).merge(list);
    }
  }

  /** Undefined before the first sample. */
  track(pool: string, acceleratorId: string): Track | undefined {
    return this._tracks.get(keyOf(pool, acceleratorId));
  }

  private _trackOf(pool: string, acceleratorId: string): Track {
    const key = keyOf(pool, acceleratorId);
    let track = this._tracks.get(key);
    if (track === undefined) {
      track = new Track();
      this._tracks.set(key, track);
    }
    return track;
  }
}

function keyOf(pool: string, acceleratorId: string): string {
  return JSON.stringify([pool, acceleratorId]);
}
