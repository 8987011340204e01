import { describe, expect, it } from 'vitest';

import { arrange } from '../charts/arrangement';
import { formatClock, whereItFits, widthOfAxis } from '../charts/axes';
import { thin } from '../charts/thinning';
import { History } from '../history';
import { accelerator, NOW_S, pageState, pool, sample } from './values';

const column = (...values: number[]) => Float64Array.from(values);

describe('thin', () => {
  it('leaves readings that have a pixel each as they are, gaps too', () => {
    expect(thin(column(10, 11, 12), [column(1, NaN, 3)], 60, 60)).toEqual([
      [10, 11, 12],
      [1, null, 3]
    ]);
  });

  it('keeps the lowest and the highest of a pixel in their order, for each series', () => {
    const times = column(0, 1, 2, 3, 4, 5, 6, 7);
    const rising = column(1, 0, 9, 5, 4, 4, 4, 4);
    const falling = column(5, 9, 0, 1, NaN, 2, NaN, 1);
    expect(thin(times, [rising, falling], 8, 2)).toEqual([
      [0, 3, 4, 7],
      [0, 9, 4, 4],
      [9, 0, 2, 1]
    ]);
  });

  it('shows a gap that fills a pixel', () => {
    const unknown = thin(column(0, 1, 2, 3, 4, 5), [column(1, 2, NaN, NaN, 5, 6)], 6, 3);
    expect(unknown).toEqual([
      [0, 1, 2, 3, 4, 5],
      [1, 2, null, null, 5, 6]
    ]);
  });

  it('makes at most two rows a pixel, and the same ones while the chart moves on', () => {
    const times = Float64Array.from({ length: 3600 }, (_, index) => NOW_S + index);
    const values = times.map(time => Math.sin(time));
    const all = thin(times, [values], 3600, 180);
    expect(all[0].length).toBeLessThanOrEqual(2 * 181);
    const later = thin(times.subarray(7), [values.subarray(7)], 3600, 180);
    const [, drawn = []] = later;
    expect(drawn.slice(2)).toEqual(all[1]?.slice(2 - drawn.length));
  });

  it('makes nothing of nothing', () => {
    expect(thin(column(), [column()], 60, 0)).toEqual([[], []]);
  });
});

describe('arrange', () => {
  const pools = pageState({ pools: [pool({ accelerators: [accelerator()] })] });

  it('has a row for a GPU with readings, and charts for what they know', () => {
    const history = new History();
    expect(arrange({ state: null, history }, 60)).toMatchObject({ hasPools: false, rows: [] });
    expect(arrange({ state: pools, history }, 60)).toMatchObject({ hasPools: true, rows: [] });
    history.add('this machine', [sample()]);
    const { rows, kinds } = arrange({ state: pools, history }, 60);
    expect(rows.map(({ acceleratorId }) => acceleratorId)).toEqual(['gpu-0']);
    expect(kinds.map(({ title }) => title)).toContain('Utilisation');
    expect(kinds.map(({ title }) => title)).not.toContain('NVLink');
  });

  it('stays the same while only readings come', () => {
    const history = new History();
    const empty = arrange({ state: pools, history }, 60).key;
    history.add('this machine', [sample({ time_unix_s: NOW_S })]);
    const first = arrange({ state: pools, history }, 60).key;
    history.add('this machine', [sample({ time_unix_s: NOW_S + 1, utilisation_percent: 3 })]);
    expect(first).not.toBe(empty);
    expect(arrange({ state: pools, history }, 60).key).toBe(first);
    history.add('this machine', [
      sample({ time_unix_s: NOW_S + 2, nvlink_tx_bytes_per_s: 5, nvlink_rx_bytes_per_s: 5 })
    ]);
    expect(arrange({ state: pools, history }, 60).key).not.toBe(first);
  });
});

describe('axes', () => {
  it('are as wide as the longest words beside them', () => {
    expect(widthOfAxis(['0 MHz', '1000 MHz'])).toBeGreaterThan(widthOfAxis(['0%', '100%']));
    expect(widthOfAxis(['0%', '50%'])).toBe(widthOfAxis(['0%', '100%']));
    expect(widthOfAxis(null)).toBe(widthOfAxis(['0%']));
  });

  it('say seconds only where marks are not all at whole minutes', () => {
    const noon_s = new Date(2026, 0, 2, 12, 0, 5).getTime() / 1000;
    expect(formatClock(noon_s, 15)).toBe('12:00:05');
    expect(formatClock(noon_s, 300)).toBe('12:00');
  });

  it('have no words that the edge would cut', () => {
    expect(whereItFits('12:00', 18)).toBe('12:00');
    expect(whereItFits('12:00', 17)).toBe('');
    expect(whereItFits('12:00:05', 18)).toBe('');
  });
});
