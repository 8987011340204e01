import { describe, expect, it } from 'vitest';

import { History, SPAN_S, Track } from '../history';
import { outline } from '../sidebar/sparkline';
import { sample } from './values';

function track(...readings: [number, number | null][]): Track {
  const made = new Track();
  for (const [time_unix_s, utilisation_percent] of readings) {
    made.add(sample({ time_unix_s, utilisation_percent }));
  }
  return made;
}

describe('Track', () => {
  it('keeps readings in order and passes over what is not newer', () => {
    const made = track([1, 10], [2, 20], [2, 99], [1, 99], [3, 30]);
    expect([...made.times()]).toEqual([1, 2, 3]);
    expect([...made.values('utilisation_percent')]).toEqual([10, 20, 30]);
    expect([...made.values('utilisation_percent', 2)]).toEqual([20, 30]);
    expect(made.latest?.time_unix_s).toBe(3);
  });

  it('keeps an hour, however much comes', () => {
    const made = new Track();
    for (let time_unix_s = 0; time_unix_s < 3 * SPAN_S; time_unix_s++) {
      made.add(sample({ time_unix_s, utilisation_percent: time_unix_s % 100 }));
    }
    expect(made.length).toBe(SPAN_S + 1);
    expect(made.first_unix_s).toBe(2 * SPAN_S - 1);
    expect(made.values('utilisation_percent', 3 * SPAN_S - 2)).toEqual(Float64Array.from([98, 99]));
  });

  it('means what is known only', () => {
    const made = track([1, 0], [2, 10], [3, null], [4, 30]);
    expect(made.mean('utilisation_percent', 2)).toBe(20);
    expect(made.mean('utilisation_percent', 5)).toBeNull();
    expect(track([1, null]).mean('utilisation_percent', 0)).toBeNull();
  });

  it('knows a metric from the time on of which anything is known', () => {
    const made = track([1, null], [2, 5], [3, null]);
    expect(made.knows('utilisation_percent', 1)).toBe(true);
    expect(made.knows('utilisation_percent', 2)).toBe(true);
    expect(made.knows('utilisation_percent', 3)).toBe(false);
  });

  it('puts what was recorded earlier where it belongs', () => {
    const made = track([10, 100], [12, 120]);
    made.merge(
      [5, 11, 12, 13].map(time => sample({ time_unix_s: time, utilisation_percent: time }))
    );
    expect([...made.times()]).toEqual([5, 10, 11, 12, 13]);
    expect([...made.values('utilisation_percent')]).toEqual([5, 100, 11, 120, 13]);
    expect(made.latest?.time_unix_s).toBe(13);
    made.add(sample({ time_unix_s: 14, utilisation_percent: 14 }));
    expect(made.length).toBe(6);
  });
});

describe('History', () => {
  it('keeps pools and accelerators apart', () => {
    const history = new History();
    history.add('a', [sample({ accelerator_id: 'x' }), sample({ accelerator_id: 'y' })]);
    history.merge('b', [sample({ accelerator_id: 'x' })]);
    expect(history.track('a', 'x')?.length).toBe(1);
    expect(history.track('b', 'x')?.length).toBe(1);
    expect(history.track('b', 'y')).toBeUndefined();
  });
});

describe('outline', () => {
  it('draws nothing at the bottom and everything at the top, over the width', () => {
    expect(outline(track([0, 0], [60, 100]), 60)).toEqual([
      [
        [0, 21],
        [70, 1]
      ]
    ]);
  });

  it('breaks where a reading is unknown', () => {
    const runs = outline(track([0, 50], [20, null], [40, 50], [60, 50]), 60);
    expect(runs.map(run => run.length)).toEqual([1, 2]);
  });

  it('draws an hour with as few points as a minute', () => {
    const made = new Track();
    for (let time_unix_s = 0; time_unix_s <= 3600; time_unix_s++) {
      made.add(sample({ time_unix_s, utilisation_percent: 50 }));
    }
    expect(outline(made, 3600).flat().length).toBeLessThanOrEqual(61);
    expect(
      outline(made, 3600)
        .flat()
        .every(([, y]) => y === 11)
    ).toBe(true);
  });
});
