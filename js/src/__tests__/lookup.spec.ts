import { describe, expect, it } from 'vitest';

import { CHARTS, isKnown, sharedTop } from '../charts/scales';
import { History } from '../history';
import { gpusOf, loadOf, recentUtilisation, sessionOf } from '../lookup';
import { describeForToolbar } from '../toolbar';
import { accelerator, GIB, makePage, pageState, pool, request, sample, session } from './values';

const eight = [0, 1].map(index => accelerator({ id: `gpu-${index}`, index }));
const found = { pool: pool(), session: session({ accelerators: eight }) };

function historyOf(...samples: ReturnType<typeof sample>[]): History {
  const history = new History();
  history.add('this machine', samples);
  return history;
}

describe('gpusOf', () => {
  it('leaves the CPU out where there is a GPU', () => {
    const cpu = accelerator({ id: 'cpu', type: 'CPU', shared: true });
    expect(gpusOf(pool({ accelerators: [cpu] }))).toHaveLength(1);
    const gpus = gpusOf(pool({ accelerators: [cpu, accelerator()] }));
    expect(gpus.map(gpu => gpu.accelerator?.id)).toEqual(['gpu-0']);
  });

  it('puts slices to their GPU, and those of a GPU that is not there together', () => {
    const slice = (id: string, mig_parent_id: string) => accelerator({ id, mig_parent_id });
    const gpus = gpusOf(
      pool({ accelerators: [slice('a', 'gpu-0'), accelerator(), slice('b', 'x'), slice('c', 'x')] })
    );
    expect(gpus.map(gpu => [gpu.accelerator?.id, gpu.slices.map(({ id }) => id)])).toEqual([
      ['gpu-0', ['a']],
      [undefined, ['b', 'c']]
    ]);
  });
});

describe('sessionOf', () => {
  it('finds it in any pool, and no closed one', () => {
    const state = pageState({
      pools: [
        pool({ sessions: [session({ id: 'gone', phase: 'closed' })] }),
        pool({ name: 'lab', sessions: [session({ id: 'there' })] })
      ]
    });
    expect(sessionOf(state, 'kernel-1')?.session.id).toBe('there');
    expect(sessionOf(state, 'kernel-2')).toBeUndefined();
    expect(sessionOf(state, null)).toBeUndefined();
  });
});

describe('loadOf', () => {
  it('means the load and adds the memory up', () => {
    const history = historyOf(
      sample({ accelerator_id: 'gpu-0', utilisation_percent: 80 }),
      sample({ accelerator_id: 'gpu-1', utilisation_percent: 90 })
    );
    expect(loadOf(found, history)).toEqual({
      utilisation_percent: 85,
      memory_used_bytes: 122 * GIB,
      memory_total_bytes: 160 * GIB
    });
  });

  it('adds nothing up where a part is unknown', () => {
    const history = historyOf(sample({ accelerator_id: 'gpu-0', utilisation_percent: 80 }));
    expect(loadOf(found, history)).toEqual({
      utilisation_percent: 80,
      memory_used_bytes: null,
      memory_total_bytes: null
    });
  });
});

describe('recentUtilisation', () => {
  it('is unknown before it was measured for that long', () => {
    const readings = Array.from({ length: 61 }, (_, second) =>
      sample({ time_unix_s: second, utilisation_percent: 10 })
    );
    const one = { pool: pool(), session: session() };
    expect(recentUtilisation(one, historyOf(...readings.slice(0, 30)), 60)).toBeNull();
    expect(recentUtilisation(one, historyOf(...readings), 60)).toBe(10);
    expect(recentUtilisation(one, new History(), 60)).toBeNull();
  });
});

describe('charts', () => {
  const kind = (title: string) => {
    const chart = CHARTS.find(chart => chart.title === title);
    if (chart === undefined) {
      throw new Error(`no chart ${title}`);
    }
    return chart;
  };

  it('have one scale for all GPUs', () => {
    const history = historyOf(
      sample({ accelerator_id: 'gpu-0', power_watts: 300 }),
      sample({ accelerator_id: 'gpu-1', power_watts: 642 })
    );
    const tracks = ['gpu-0', 'gpu-1'].flatMap(id => history.track('this machine', id) ?? []);
    expect(sharedTop(kind('Power'), tracks, 0)).toBe(642);
    expect(sharedTop(kind('Utilisation'), tracks, 0)).toBe(100);
    expect(sharedTop(kind('Memory'), tracks, 0)).toBe(80 * GIB);
  });

  it('are left out where nobody knows the metric', () => {
    const track = historyOf(sample()).track('this machine', 'gpu-0');
    expect(track && sharedTop(kind('NVLink'), [track], 0)).toBeNull();
    expect(track && isKnown(kind('NVLink'), [track], 0)).toBe(false);
    expect(track && isKnown(kind('Utilisation'), [track], 0)).toBe(true);
  });
});

describe('describeForToolbar', () => {
  it.each([
    [{ sessions: [session({ accelerators: eight })] }, 'H100 ×2 · idle'],
    [{ sessions: [session({ accelerators: [], phase: 'queued' })] }, 'H100 · queued'],
    [{ requests: [request()] }, 'H100x8 · queued'],
    [{ requests: [request({ phase: 'placing' })] }, 'H100x8 · opening'],
    [{}, 'GPU']
  ] as const)('%#: reads %2$s', (fields, text) => {
    const pools = [pool(fields as Parameters<typeof pool>[0])];
    const { page } = makePage({ state: pageState({ pools }) });
    expect(describeForToolbar(page, 'kernel-1').text).toBe(text);
  });
});
